"""Lets LiBai be imported without SciPy's statistics, of which it needs two functions for one metric of texts.

Symptom: importing scipy.stats is a third of a command's start, a second of a processor's time.
"""
import contextlib
import gc
import importlib
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from types import ModuleType

IMPORTER, IMPORTED = "libai.evaluation.reg_evaluator", "scipy.stats"


class _Later(ModuleType):
    """Has every function of a module, and imports the module when one of them is called."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)


class _Loader(SourceFileLoader):
    def exec_module(self, module):
        sys.modules[IMPORTED] = _Later(IMPORTED)
        try:
            super().exec_module(module)
        finally:
            del sys.modules[IMPORTED]


class _Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        """LiBai's module as Python finds it, but without what it imports; None for all others."""
        if name != IMPORTER or IMPORTED in sys.modules:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def import_libai_quickly():
    """From now on LiBai's import leaves SciPy's statistics for when they are called."""
    if not any(finder is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder)


@contextlib.contextmanager
def no_garbage_collection():
    """Look for no garbage while packages are imported, and never again in what they have made.

    Nearly everything made then stays until the end, and Python looks through it a few hundred times:
    a twelfth of the time until a run begins.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
