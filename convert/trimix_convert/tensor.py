"""A tensor that is somewhere else, read a slice of rows at a time, never more."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt


class Tensor(ABC):
    """A named tensor somewhere else: on disk, or computed from the configuration.

    `dtype` is "F32", "F16", "BF16", or another safetensors name that no conversion can use.
    """

    #: The NumPy type of what `rows` returns; NumPy has no bfloat16, its bits come as uint16.
    NUMPY_TYPES: ClassVar[dict[str, str]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @abstractmethod
    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of the first axis, shape `[stop - start, *shape[1:]]`."""


class ArrayTensor(Tensor):
    """A tensor held in memory as float32."""

    def __init__(self, name: str, values: npt.NDArray[np.float32]) -> None:
        super().__init__(name, "F32", values.shape)
        self._values = values

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._values[start:stop]
