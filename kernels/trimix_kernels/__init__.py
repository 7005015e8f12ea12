"""Arrays in, arrays out: the inner loops of logit fusion. NumPy and Numba only."""

from trimix_kernels._jit import is_cached
from trimix_kernels.fuse import (
    argmax,
    fill_candidates,
    fuse_three,
    fuse_two,
    mask_implausible,
    peak_probability,
)
from trimix_kernels.noise import gumbel_argmax, gumbel_noise

__all__ = [
    "argmax",
    "fill_candidates",
    "fuse_three",
    "fuse_two",
    "gumbel_argmax",
    "gumbel_noise",
    "is_cached",
    "mask_implausible",
    "peak_probability",
]
