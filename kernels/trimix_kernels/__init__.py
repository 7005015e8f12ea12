"""Arrays in, arrays out: the inner loops of logit fusion. NumPy and Numba only."""

from trimix_kernels.fuse import argmax, fill_candidates, fuse_three, fuse_two, mask_implausible

__all__ = ["argmax", "fill_candidates", "fuse_three", "fuse_two", "mask_implausible"]
