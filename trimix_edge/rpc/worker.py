"""The process that owns models whose layers are on servers, seen from the one that started it.

llama.cpp ends its process where a server is lost: that is the other one, and the error here is an
:class:`RpcError`.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trimix_edge.errors import RpcError
from trimix_edge.llama.backend import deferred_interrupt
from trimix_edge.rpc.build import find_module
from trimix_edge.rpc.child import shared_rows
from trimix_edge.rpc.probe import probe

_PROGRAM = (
    "import sys, json; sys.path[:] = sys.argv[1].split('\\n'); "
    "from trimix_edge.rpc.child import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))"
)
_LOOK = 0.05
_INTERRUPT_SECONDS = 10.0
"""After Ctrl-C, the time that a batch has to end."""


class Begun(Protocol):
    """Who has begun something; ``failure`` is what came of it."""

    failure: Exception | None


class Worker:
    """A process that owns models. Close it, or use it as a context manager.

    Args:
        addresses: the servers, ``HOST:PORT``, which are asked who they are first.

    Attributes:
        n_bytes: carried to and from all servers until now.

    Raises:
        RpcError: a server can't be used, or the RPC module is missing.
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        addresses = tuple(dict.fromkeys(addresses))
        if addresses:
            find_module()
        beats = {address: probe(address) for address in addresses}
        self.n_bytes = 0
        self._lock = threading.RLock()
        self._failure = ""
        self._waiting: list[Begun] = []
        self._memory, self._end = _memory(), mmap.ALLOCATIONGRANULARITY
        os.ftruncate(self._memory, self._end)
        self._flag = mmap.mmap(self._memory, mmap.PAGESIZE)
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115, it is closed with the worker
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-c", _PROGRAM, "\n".join(filter(None, sys.path))),
                    *(str(theirs.fileno()), str(self._memory), json.dumps(beats)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                pass_fds=(theirs.fileno(), self._memory),
                start_new_session=True,  # Ctrl-C in a terminal is for this process
            )
        except OSError as error:
            ours.close()
            why = error.strerror or error
            raise RpcError(f"the process that talks to servers can't be started: {why}") from None
        finally:
            theirs.close()
        self._pipe = Connection(ours.detach())

    def call(self, *command: Any, on_progress: Callable[[float], None] | None = None) -> Any:
        """Let the process do something, and wait for it; see :class:`trimix_edge.rpc.child.Child`.

        Raises:
            RpcError: a server was lost, or the process has ended.
            TriMixError: what the process raises.
        """
        with self._lock, deferred_interrupt() as interrupted:
            self.collect()
            self._send(command)
            return self._receive(interrupted, on_progress)

    def begin(self, context: Begun, *command: Any) -> None:
        """Let it do something, and go on; :meth:`collect` waits for it."""
        with self._lock, deferred_interrupt():
            self._send(command)
            self._waiting.append(context)

    def collect(
        self, context: Begun | None = None, is_cancelled: Callable[[], bool] | None = None
    ) -> None:
        """Wait until what was begun for a context, or for all, is done; raise what it raised."""
        with self._lock, deferred_interrupt() as interrupted:

            def is_stopped() -> bool:
                return interrupted() or (is_cancelled is not None and is_cancelled())

            while self._waiting and (context is None or context in self._waiting):
                first = self._waiting[0]
                try:
                    self._receive(is_stopped)
                except Exception as error:
                    first.failure = error
                finally:
                    self._waiting.pop(0)

    def _send(self, command: Sequence[Any]) -> None:
        self._require()
        try:
            self._pipe.send(command)
        except OSError:
            self._receive(lambda: False)  # it may have said why

    def _require(self) -> None:
        if self._failure:
            raise RpcError(self._failure)

    def _receive(
        self,
        is_stopped: Callable[[], bool],
        on_progress: Callable[[float], None] | None = None,
    ) -> Any:
        self._require()
        since = 0.0
        try:
            while True:
                try:
                    while not self._pipe.poll(_LOOK):
                        if is_stopped():
                            self._flag[0] = 1
                            since = since or monotonic()
                            if monotonic() - since > _INTERRUPT_SECONDS:
                                raise self._fail("stopped by Ctrl-C in a batch that did not end")
                    kind, *content = self._pipe.recv()
                except (EOFError, OSError):
                    raise self._fail(self._last_words()) from None
                if kind == "lost":
                    raise self._fail(*content)
                if kind == "failed":
                    raise _rebuilt(*content)
                if kind == "done":
                    value, self.n_bytes = content
                    return value
                if on_progress is not None:
                    on_progress(*content)
        finally:
            self._flag[0] = 0

    def _fail(self, why: str) -> RpcError:
        self._failure = f"{why}; load the models again"
        self._process.kill()
        return RpcError(self._failure)

    def _last_words(self) -> str:
        self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read()[-10_000:].decode(errors="replace").strip().splitlines()
        why = lines[-1].removeprefix("trimix-edge: ").strip()[:200] if lines else "no reason given"
        return f"the process that talks to servers has ended ({why})"

    def share(self, shape: tuple[int, int]) -> tuple[int, npt.NDArray[np.float32]]:
        """Memory for rows of logits, float32 ``[shape]``: its offset, and this process's view."""
        offset, unit = self._end, mmap.ALLOCATIONGRANULARITY
        self._end += -(-4 * shape[0] * shape[1] // unit) * unit
        os.ftruncate(self._memory, self._end)
        return offset, shared_rows(self._memory, offset, shape)

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be computed any more."""
        return bool(self._failure)

    def close(self) -> None:
        """End the process; safe to call again."""
        if not self._failure:
            self._failure = "the models were closed: load them again"
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._pipe.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._complaints.close()
            self._memory = -1

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _memory() -> int:
    """A descriptor of memory, or of a file without a name where the system knows of none."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("trimix-edge")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _rebuilt(kind: type[Exception], arguments: Sequence[Any], attributes: dict[str, Any]) -> Any:
    error = kind.__new__(kind)
    error.args = tuple(arguments)
    error.__dict__.update(attributes)
    return error
