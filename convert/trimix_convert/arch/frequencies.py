"""Rotary frequencies by the published formulas: Llama 3.1's scaling and YaRN (arXiv 2309.00071).

Both are given as divisors of the frequencies `theta ** (-2 i / head_dim)`, float32
`[head_dim / 2]`, as llama.cpp's `rope_freqs.weight` holds them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def llama3_divisors(
    head_dim: int, theta: float, factor: float, low: float, high: float, context: int
) -> npt.NDArray[np.float32]:
    """Divisors of Llama 3.1's scaling.

    Wavelengths up to `context / high` keep their frequency, those from `context / low` on are
    stretched by `factor`, between them it blends; `context` is that of the pre-training.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.power(np.float32(theta), exponents)
    divisors = np.ones(head_dim // 2, np.float32)
    for i, frequency in enumerate(frequencies.tolist()):
        wavelength = 2 * math.pi / frequency
        if wavelength > context / low:
            divisors[i] = factor
        elif wavelength >= context / high:
            smooth = (context / wavelength - low) / (high - low)
            divisors[i] = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def yarn_range(
    head_dim: int, theta: float, context: int, fast: float, slow: float, truncate: bool
) -> tuple[float, float]:
    """Where YaRN's ramp begins and ends, counted in pairs of dimensions.

    At the ends a pair turns `fast` and `slow` times within the original context; `truncate` takes
    the whole numbers outside. The range is empty, its end before its beginning, in odd cases.
    """
    low, high = (
        head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (fast, slow)
    )
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, head_dim - 1)


def yarn_divisors(head_dim: int, factor: float, low: float, high: float) -> npt.NDArray[np.float32]:
    """Divisors of YaRN: 1 before the ramp, `factor` behind it."""
    width = high - low if high != low else 0.001
    ramp = np.clip((np.arange(head_dim // 2) - low) / width, 0, 1)
    divisors: npt.NDArray[np.float32] = (1 / (ramp / factor + (1 - ramp))).astype(np.float32)
    return divisors


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """What YaRN multiplies rotated queries and keys by, unless told otherwise."""
    return 1 + 0.1 * weight * math.log(max(factor, 1))
