"""``trimix-edge rpc-server``: this machine computes for another one.

llama.cpp's server has one client at a time, and lets others wait without a word. So it listens at a
port of loopback that the system chose, and a gate stands before it: the gate tells a second client
that the server is busy, and tells whoever asks that this process lives, while llama.cpp computes.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from trimix_edge.errors import RpcError
from trimix_edge.llama.backend import physical_cores
from trimix_edge.llama.rpc import run_server
from trimix_edge.rpc.build import find_module
from trimix_edge.rpc.probe import ALIVE, BUSY, HELLO, read_exactly
from trimix_edge.rpc.pump import pump, shut

_LOOPBACK = "127.0.0.1"
_START_SECONDS = 20.0
_FIRST_BYTES_SECONDS = 10.0
_ALIVE_SECONDS = 60.0
"""Of silence, after which a connection that asks no more is ended."""

_ENDING_SECONDS = 2.0
"""llama.cpp's client connects anew right after it has ended a connection."""

_MAX_CONNECTIONS = 32


class Gate:
    """Hands one connection at a time to llama.cpp's server.

    Args:
        port: of llama.cpp's server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._in_use = threading.Lock()
        self._room = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def run(self, listener: socket.socket) -> NoReturn:
        """Accept connections for ever."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # gone before it was accepted, or no descriptor is left
                threading.Event().wait(0.05)
                continue
            if not self._room.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(_FIRST_BYTES_SECONDS)
                first = connection.recv(1, socket.MSG_PEEK)
                if first == bytes([HELLO]):
                    self._serve(connection)
                elif first == ALIVE[:1]:
                    connection.settimeout(_ALIVE_SECONDS)
                    while read_exactly(connection, len(ALIVE)) == ALIVE:
                        connection.sendall(ALIVE)
        finally:
            self._room.release()

    def _serve(self, connection: socket.socket) -> None:
        if not self._in_use.acquire(timeout=_ENDING_SECONDS):
            connection.sendall(BUSY)
            return
        try:
            with socket.create_connection((_LOOPBACK, self._port)) as inner:
                inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(None)
                back = threading.Thread(target=_back, args=(inner, connection), daemon=True)
                back.start()
                pump(connection, inner)
                shut(inner, connection)
                back.join()
        finally:
            self._in_use.release()


def _back(inner: socket.socket, connection: socket.socket) -> None:
    pump(inner, connection)
    shut(inner, connection)


def serve(
    host: str, port: int, n_threads: int, on_listening: Callable[[str, int, int], None]
) -> NoReturn:
    """Compute for others until Ctrl-C, which ends this process with code 0.

    Args:
        port: 0 for one that the system chooses.
        n_threads: 0 for one a physical core.
        on_listening: called with host, port and threads once clients may come.

    Raises:
        RpcError: the module is missing, or the address can't be listened at.
    """
    module, n_threads = find_module(), n_threads or physical_cores()
    listener = _listen(host, port)
    inner = _free_port()
    _silence_output()
    threading.Thread(target=_run_inner, args=(module, inner, n_threads, host), daemon=True).start()
    _await(inner)
    try:
        on_listening(host, listener.getsockname()[1], n_threads)
        Gate(inner).run(listener)
    except KeyboardInterrupt:
        print("trimix-edge: stopped", file=sys.stderr, flush=True)
        os._exit(0)  # llama.cpp's thread can't be ended, and must not outlive its libraries


def _run_inner(module: Path, port: int, n_threads: int, host: str) -> None:
    try:
        run_server(module, _LOOPBACK, port, n_threads)
        why = "llama.cpp's server has ended"
    except RpcError as error:
        why = str(error)
    print(f"trimix-edge: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise RpcError(f"{host}:{port} can't be listened at: {why}") from None
    return listener


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_LOOPBACK, 0))
        port: int = one.getsockname()[1]
        return port


def _await(port: int) -> None:
    """Until llama.cpp's server listens; its own thread ends the process where it fails."""
    pause = threading.Event()
    for _ in range(int(_START_SECONDS / 0.02)):
        with suppress(OSError), socket.create_connection((_LOOPBACK, port)):
            return
        pause.wait(0.02)
    raise RpcError(f"llama.cpp's server does not start in {_START_SECONDS:g} seconds")


def _silence_output() -> None:
    """llama.cpp's server writes to standard output, which is not for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
