"""llama.cpp's RPC backend (``ggml-rpc.h``), a module that is loaded at run time."""

from __future__ import annotations

import ctypes
import os
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
