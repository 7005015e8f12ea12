"""ggml's tensors as its callbacks hand them out: their names, shapes and data."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trimix_edge.errors import TriMixError
from trimix_edge.llama.backend import ggml_library

_TYPES = {0: np.dtype(np.float32), 26: np.dtype(np.int32)}  # enum ggml_type
F32 = 0


class GgmlTensor(ctypes.Structure):
    """``struct ggml_tensor`` up to its name; ``ne`` in elements, ``nb`` in bytes, columns first."""


GgmlTensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(GgmlTensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


@cache
def _calls() -> ctypes.CDLL:
    ggml = ggml_library("ggml-base")
    pointer = ctypes.c_void_p
    for name in ("ggml_get_name", "ggml_op_desc"):
        function = getattr(ggml, name)
        function.restype, function.argtypes = ctypes.c_char_p, [pointer]
    ggml.ggml_nbytes.restype, ggml.ggml_nbytes.argtypes = ctypes.c_size_t, [pointer]
    ggml.ggml_backend_buffer_is_host.restype = ctypes.c_bool
    ggml.ggml_backend_buffer_is_host.argtypes = [pointer]
    ggml.ggml_backend_tensor_get.restype = None
    ggml.ggml_backend_tensor_get.argtypes = [pointer, pointer, ctypes.c_size_t, ctypes.c_size_t]
    return ggml


def tensor_at(address: int) -> Any:
    """The tensor that a callback was given."""
    return GgmlTensor.from_address(address)


def op_name(tensor: Any) -> str:
    """``MUL_MAT`` and the like (``ggml_op_desc``)."""
    name: bytes = _calls().ggml_op_desc(ctypes.addressof(tensor))
    return name.decode()


def check_layout(tensor: Any) -> None:
    """Compare what :class:`GgmlTensor` reads with what ggml's own functions say.

    Raises:
        TriMixError: this build of llama.cpp has another ``struct ggml_tensor``.
    """
    address = ctypes.addressof(tensor)
    last = sum((n - 1) * step for n, step in zip(tensor.ne, tensor.nb, strict=True))
    told = _calls().ggml_get_name(address), _calls().ggml_nbytes(address)
    if tensor.type != F32 or told != (tensor.name, last + 4):
        raise TriMixError(
            "this build of llama.cpp lays its tensors out in another way: install the version of "
            "llama-cpp-python that trimix-edge names"
        )


def values(tensor: Any) -> npt.NDArray[Any]:
    """A tensor's data: float32 or int32, ``[ne3, ne2, ne1, ne0]``.

    In a host's memory it is a view, valid inside the callback; on a device it is a copy
    (``ggml_backend_tensor_get``).
    """
    calls = _calls()
    n_bytes = calls.ggml_nbytes(ctypes.addressof(tensor))
    buffer = ctypes.c_char * n_bytes
    if calls.ggml_backend_buffer_is_host(tensor.buffer):
        memory = buffer.from_address(tensor.data)
    else:
        memory = buffer()
        calls.ggml_backend_tensor_get(ctypes.addressof(tensor), memory, 0, n_bytes)
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    found: npt.NDArray[Any] = np.ndarray(shape, _TYPES[tensor.type], memory, 0, strides)
    return found


def weight_name(tensor: Any) -> str:
    """The name of a weight: that of a copy on a device, ``CUDA0#NAME#0``, holds it."""
    name: str = tensor.name.decode(errors="replace")
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name
