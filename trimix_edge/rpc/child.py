"""The process that owns models whose layers are on servers: llama.cpp ends it where one is lost.

It reads commands, tuples of a name and arguments, and answers each with one of

    ("done", VALUE, N_BYTES)        N_BYTES: carried to and from all servers until now
    ("failed", CLASS, ARGUMENTS, ATTRIBUTES)    of an error
    ("progress", FRACTION)          an answer is to come
    ("lost", TEXT)                  of a server; this process is of no more use

Logits go through memory that it shares with its parent: see :mod:`trimix_edge.rpc.worker`.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimix_edge.config import ContextParams
from trimix_edge.errors import RpcError, TriMixError, take_process
from trimix_edge.llama import LlamaContext, LlamaModel
from trimix_edge.llama.context import BatchItem
from trimix_edge.llama.rpc import Placement, add_server
from trimix_edge.rpc.build import find_module
from trimix_edge.rpc.relay import Relay


class Child:
    """Does what the parent says.

    Args:
        memory: descriptor of the shared memory. Its first byte is not 0 while the parent wants the
            present computation to end.
        beats: of each server, whether it says that it lives.
    """

    def __init__(self, pipe: Connection, memory: int, beats: Mapping[str, bool]) -> None:
        self._pipe, self._memory = pipe, memory
        self._flag = mmap.mmap(memory, mmap.PAGESIZE)
        self._writing = threading.Lock()
        self._models: dict[int, LlamaModel] = {}
        self._adapters: dict[int, Any] = {}
        self._contexts: dict[int, LlamaContext] = {}
        self._logits: dict[int, npt.NDArray[np.float32]] = {}
        self._relays = {
            address: Relay(address, beats=has, on_lost=self._on_lost)
            for address, has in beats.items()
        }
        self._devices = cache(self._add)

    def run(self) -> None:
        """Obey until the parent has gone."""
        while True:
            try:
                name, *arguments = self._pipe.recv()
            except EOFError:
                return
            self._work(is_done=False)
            try:
                value = getattr(self, f"do_{name}")(*arguments)
                answer: tuple[Any, ...] = ("done", value, self._n_bytes)
            except TriMixError as error:
                answer = ("failed", type(error), error.args, vars(error))
            self._work(is_done=True)
            self._tell(answer)

    def _work(self, *, is_done: bool) -> None:
        for relay in self._relays.values():
            relay.is_working = not is_done

    @property
    def _n_bytes(self) -> int:
        return sum(relay.n_bytes for relay in self._relays.values())

    def _tell(self, message: tuple[Any, ...]) -> None:
        with self._writing:
            self._pipe.send(message)

    def _on_lost(self, what: str) -> None:
        try:
            self._tell(("lost", what))
        except OSError:  # nobody is left to hear of it
            os._exit(1)

    def _add(self, address: str) -> list[int]:
        return add_server(find_module(), "127.0.0.1", self._relays[address].port)

    def do_load(
        self,
        key: int,
        path: Path,
        options: dict[str, Any],
        addresses: Sequence[str],
        split: Sequence[float],
        with_output: bool,
    ) -> int:
        """Load a model; tokens that it was trained on."""
        devices = [self._devices(address) for address in addresses]
        if split and any(len(own) != 1 for own in devices):
            raise RpcError("rpc_split is for servers with one device each: leave it away")
        placement = Placement([d for own in devices for d in own], split, with_output)
        self._models[key] = LlamaModel(
            path,
            **options,
            placement=placement if addresses else None,
            on_progress=lambda fraction: self._tell(("progress", fraction)),
        )
        return self._models[key].n_ctx_train

    def do_adapter(self, key: int, model: int, path: Path) -> None:
        """Load an adapter for a model."""
        self._adapters[key] = self._models[model].load_adapter(path)

    def do_context(
        self, key: int, model: int, name: str, params: ContextParams, adapter: int | None
    ) -> tuple[int, int, int]:
        """Make a context; its rows and its bytes of keys and values, and the model's vocabulary."""
        of = self._models[model]
        context = LlamaContext(of, name, params, self._adapters.get(adapter or 0))
        self._contexts[key] = context
        return context.max_rows, context.n_kv_bytes, of.n_vocab

    def do_share(self, key: int, offset: int, shape: tuple[int, int]) -> None:
        """Put the logits of a context there, from now on."""
        self._logits[key] = shared_rows(self._memory, offset, shape)

    def do_decode(
        self,
        key: int,
        items: Sequence[tuple[int, list[int], int]],
        n_threads: int,
        abortable: bool,
    ) -> None:
        """Decode, and put the rows of logits into the shared memory."""
        context = self._contexts[key]
        context.set_threads(n_threads)
        context.decode(
            [BatchItem(*item) for item in items],
            is_cancelled=(lambda: self._flag[0] != 0) if abortable else None,
        )
        n = sum(n_rows for _, _, n_rows in items)
        if n:
            self._logits[key][:n] = context.logits()

    def do_truncate(self, key: int, seq: int, n_past: int) -> None:
        self._contexts[key].truncate(seq, n_past)

    def do_copy_prefix(self, key: int, source: int, target: int, n: int) -> None:
        self._contexts[key].copy_prefix(source, target, n)

    def do_state(self, key: int, seq: int) -> npt.NDArray[np.uint8]:
        return self._contexts[key].state(seq)

    def do_restore(self, key: int, state: npt.NDArray[np.uint8], tokens: list[int]) -> None:
        self._contexts[key].restore(state, tokens)


def shared_rows(memory: int, offset: int, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Rows of logits, float32 ``[shape]``, in shared memory.

    Args:
        offset: in bytes, a multiple of ``mmap.ALLOCATIONGRANULARITY``.
    """
    view = mmap.mmap(memory, 4 * shape[0] * shape[1], offset=offset)
    return np.frombuffer(view, np.float32).reshape(shape)


def main(pipe: int, memory: int, beats: Mapping[str, bool]) -> None:
    """Run until the parent has gone, or llama.cpp ends this process with a line on stderr."""
    take_process()
    Child(Connection(pipe), memory, beats).run()
    os._exit(0)  # the relays' threads, and llama.cpp's connections, need no farewell
