"""pytorch_model.bin: pickles, which only PyTorch reads, and only as plain tensors.

`torch.load(weights_only=True)` rebuilds tensors and containers and refuses every other object,
so nothing in the file is ever executed.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, MissingDependencyError
from .tensor import Tensor


class TorchTensor(Tensor):
    """A tensor that PyTorch holds, mapped from its file where the file's format allows it."""

    def __init__(self, name: str, dtype: str, values: Any) -> None:
        super().__init__(name, dtype, tuple(values.shape))
        self._values = values

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        import torch

        rows = self._values[start:stop].detach().contiguous()
        if self.dtype == "BF16":
            bits: npt.NDArray[Any] = rows.view(torch.int16).numpy().view(np.uint16)
            return bits
        values: npt.NDArray[Any] = rows.numpy()
        return values


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of one file of `torch.save`, by name.

    Raises MissingDependencyError without PyTorch, CheckpointError for anything but tensors.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            f"{path} is a pickle, which needs PyTorch to be read: pip install torch"
        ) from None
    try:
        try:
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError:  # files from before PyTorch 1.6 can't be mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, OSError) as error:
        first_line = (str(error).splitlines() or [repr(error)])[0]
        raise CheckpointError(f"cannot read {path} as plain tensors: {first_line[:200]}") from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds no tensors by name")
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    tensors: dict[str, Tensor] = {}
    for name, values in loaded.items():
        if not isinstance(name, str) or not isinstance(values, torch.Tensor):
            raise CheckpointError(f"{path}: {name!r:.80} is no tensor")
        tensors[name] = TorchTensor(name, names.get(values.dtype, str(values.dtype)), values)
    return tensors
