"""Between llama.cpp and a server: counts bytes, and notices that the server is lost.

llama.cpp ends the process where a connection ends, and waits for ever where a server stands still.
So it connects to a port of loopback, which never ends a connection: who is told that the server is
lost ends the process.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from trimix_edge.errors import RpcError
from trimix_edge.rpc.probe import CONNECT_SECONDS, alive, connect
from trimix_edge.rpc.pump import pump, shut

BEAT_SECONDS = 1.0
LOST_SECONDS = 5.0
"""A server that does not say within this time that it lives has stopped, or its machine has."""

SILENCE_SECONDS = 60.0
"""Of llama.cpp's own server, which can't say that it lives: without a byte from it or to it while
something is computed."""


class Relay:
    """Carries bytes between a port of loopback and a server.

    Args:
        address: the server's ``HOST:PORT``.
        beats: whether it says that it lives when it is asked.
        on_lost: called from a thread, once, with what has happened to the server.

    Attributes:
        port: where llama.cpp is to connect to.
        n_bytes: carried in both directions until now.
        is_working: whether something is computed now.
    """

    def __init__(self, address: str, *, beats: bool, on_lost: Callable[[str], None]) -> None:
        self.is_working = False
        self.n_bytes = 0
        self._address = address
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._is_lost = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        for work in (self._accept, self._listen_to_beats if beats else self._watch_silence):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        try:
            server = connect(self._address)
        except RpcError as error:
            self._lose(f"was lost: it {str(error).removeprefix(self._address).strip()}")
            return
        server.settimeout(None)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        has_left = threading.Event()
        threading.Thread(target=self._back, args=(server, client, has_left), daemon=True).start()
        if pump(client, server, self._count):
            has_left.set()
            shut(server, client)
        else:
            self._lose("was lost: it has ended the connection")

    def _back(
        self, server: socket.socket, client: socket.socket, has_left: threading.Event
    ) -> None:
        if pump(server, client, self._count) and not has_left.is_set():
            self._lose("was lost: it has ended the connection")

    def _count(self, n: int) -> None:
        with self._lock:
            self.n_bytes += n

    def _lose(self, what: str) -> None:
        with self._lock:
            is_first, self._is_lost = not self._is_lost, True
        if is_first:
            self._on_lost(f"{self._address} {what}")

    def _listen_to_beats(self) -> None:
        try:
            with connect(self._address, CONNECT_SECONDS) as connection:
                connection.settimeout(LOST_SECONDS)
                while alive(connection):
                    threading.Event().wait(BEAT_SECONDS)
            self._lose("was lost: it has ended the connection")
        except RpcError as error:
            self._lose(f"was lost: it {str(error).removeprefix(self._address).strip()}")
        except TimeoutError:
            self._lose(
                f"was lost: no sign of life for {LOST_SECONDS:g} seconds; it has stopped, or its "
                f"network has"
            )
        except OSError as error:
            self._lose(f"was lost: {error.strerror or error}")

    def _watch_silence(self) -> None:
        pause, silent, before = threading.Event(), 0.0, -1
        while silent < SILENCE_SECONDS:
            pause.wait(BEAT_SECONDS)
            silent = silent + BEAT_SECONDS if self.is_working and before == self.n_bytes else 0.0
            before = self.n_bytes
        self._lose(f"was lost: not a byte for {SILENCE_SECONDS:g} seconds of work")
