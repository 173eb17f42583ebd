"""Masked Autoencoders (He et al., arXiv 2111.06377) on OneFlow, as a LiBai project."""

__version__ = "0.1.0"
