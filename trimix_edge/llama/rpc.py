"""llama.cpp's RPC backend (``ggml-rpc.h``), a module that is loaded at run time."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp

from trimix_edge.errors import RpcError
from trimix_edge.llama.backend import (
    collected_errors,
    devices_to_serve,
    ggml_library,
    init_backend,
    reason,
)


class _Override(ctypes.Structure):
    """``llama_model_tensor_buft_override``, which the binding does not wrap."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p)]


@dataclass(frozen=True)
class Placement:
    """Where the layers of a model go.

    Attributes:
        devices: of type ``ggml_backend_dev_t``.
        split: the share of each device; without any, by the memory that it has free.
        with_output: the last layer goes there as well. A row of logits is then carried for each
            token, and otherwise only what that layer reads.
    """

    devices: Sequence[int]
    split: Sequence[float] = ()
    with_output: bool = False

    def apply(self, params: Any) -> list[Any]:
        """Set ``llama_model_params``.

        Returns:
            What must stay in memory until the model is loaded.
        """
        devices = (ctypes.c_void_p * (len(self.devices) + 1))(*self.devices)  # NULL ends them
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
        kept: list[Any] = [devices]
        if self.split:
            shares = (ctypes.c_float * llama_cpp.LLAMA_MAX_DEVICES)(*self.split)
            params.tensor_split = shares
            kept.append(shares)
        if not self.with_output:
            ggml = ggml_library("ggml-base")
            ggml.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
            overrides = (_Override * 2)()
            overrides[0].pattern = b"token_embd|^output"
            overrides[0].buft = ggml.ggml_backend_cpu_buffer_type()
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
            kept.append(overrides)
        return kept


def library_folder() -> Path:
    """Where the installed llama.cpp's libraries are."""
    return Path(llama_cpp.__file__).parent / "lib"


@cache
def _load(module: Path) -> int:
    """The ``ggml_backend_reg_t`` of the module."""
    init_backend()
    ggml = ggml_library("ggml")
    ggml.ggml_backend_load.restype = ctypes.c_void_p
    ggml.ggml_backend_load.argtypes = [ctypes.c_char_p]
    with collected_errors() as errors:
        registry: int | None = ggml.ggml_backend_load(os.fsencode(module))
    if not registry:
        raise RpcError(
            f"llama.cpp can't load {module}: {reason(errors) or 'it gives no reason'}; compile it "
            f"anew with `make rpc`"
        )
    return registry


def _function(module: Path, name: str, result: Any, *arguments: Any) -> Any:
    ggml = ggml_library("ggml")
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    address = ggml.ggml_backend_reg_get_proc_address(_load(module), name.encode())
    if not address:
        raise RpcError(f"{module} has no {name}: compile it anew with `make rpc`")
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def add_server(module: Path, host: str, port: int) -> list[int]:
    """The devices of a server (``ggml_backend_rpc_add_server``), of type ``ggml_backend_dev_t``.

    llama.cpp ends the process where nothing answers, and waits for ever for what does not speak.

    Raises:
        RpcError: the server has no device, or the module can't be loaded.
    """
    add = _function(module, "ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
    ggml = ggml_library("ggml")
    ggml.ggml_backend_reg_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_reg_dev_count.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_dev_get.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    registry = add(f"{host}:{port}".encode())
    if not registry:
        raise RpcError(f"{host}:{port} has no device to compute with")
    n = ggml.ggml_backend_reg_dev_count(registry)
    return [ggml.ggml_backend_reg_dev_get(registry, i) for i in range(n)]


def run_server(module: Path, host: str, port: int, n_threads: int) -> None:
    """Serve this machine's GPUs, or its CPU without any (``ggml_backend_rpc_start_server``).

    Returns only where it could not begin.
    """
    start = _function(
        module,
        "ggml_backend_rpc_start_server",
        None,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    )
    found = devices_to_serve()
    devices = (ctypes.c_void_p * len(found))(*found)
    start(f"{host}:{port}".encode(), None, n_threads, len(found), devices)
