"""Arrays in, arrays out: the inner loops of logit fusion. NumPy and Numba only."""

from trimix_kernels._jit import is_cached
from trimix_kernels.exact import exponentials
from trimix_kernels.fuse import (
    argmax,
    fill_candidates,
    fuse_three,
    fuse_two,
    mask_implausible,
    peak_probability,
)
from trimix_kernels.grid import grid_entropy, grid_nll
from trimix_kernels.noise import gumbel_argmax, gumbel_noise
from trimix_kernels.score import fuse_saf, moments, token_logprobs

__all__ = [
    "argmax",
    "exponentials",
    "fill_candidates",
    "fuse_saf",
    "fuse_three",
    "fuse_two",
    "grid_entropy",
    "grid_nll",
    "gumbel_argmax",
    "gumbel_noise",
    "is_cached",
    "mask_implausible",
    "moments",
    "peak_probability",
    "token_logprobs",
]
