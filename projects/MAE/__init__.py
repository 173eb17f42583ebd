"""Masked Autoencoders (He et al., arXiv 2111.06377) on OneFlow, as a LiBai project."""
from projects.MAE.runtime.quick_import import import_libai_quickly

__version__ = "0.1.0"

import_libai_quickly()


def __getattr__(name):
    # Not at once: worker processes import this package, too, and must not load OneFlow.
    if name == "load_encoder":
        from projects.MAE.models import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
