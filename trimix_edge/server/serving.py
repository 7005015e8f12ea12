"""Running the application on a socket, with bounds on connections and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from trimix_edge.errors import UsageError
from trimix_edge.server.app import Application
from trimix_edge.server.protocol import Engine
from trimix_edge.server.security import Access
from trimix_edge.server.state import Limits

MAX_HEADERS = 32 << 10
MAX_CONNECTIONS = 500
LINGER_SECONDS = 5.0
LINGER_BYTES = 256 << 20


class _Transport:
    """A transport that is closed only when its client had time to read the answer.

    Closing a socket with unread data makes the kernel send a reset, at which the client's kernel
    throws the answer away: who sends a large body would see a broken pipe instead of the 413. So
    the sending side is closed first, and what still comes is thrown away for a while.
    """

    def __init__(self, transport: Any, is_unread: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_unread = is_unread
        self._left = LINGER_BYTES
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def lingers(self) -> bool:
        return self._timer is not None

    def is_closing(self) -> bool:
        return self.lingers or bool(self._transport.is_closing())

    def close(self) -> None:
        if self.is_closing() or not self._is_unread() or not self._transport.can_write_eof():
            self.end()
            return
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)
        self._transport.write_eof()
        self._transport.resume_reading()

    def throw_away(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            self._transport.abort()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()


def protocol_with(header_seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, with a limit on the time until a request's headers are complete, which
    uvicorn lacks, and on the number of connections."""

    class Bounded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _own: _Transport

        def connection_made(self, transport: Any) -> None:
            self._own = _Transport(transport, self._is_unread)
            super().connection_made(self._own)  # type: ignore[arg-type]
            if len(self.connections) > MAX_CONNECTIONS:
                transport.abort()
                return
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            if self._own.lingers:
                self._own.throw_away(len(data))
                return
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self.cycle.response_complete:
                self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._own.end()
            super().connection_lost(exc)

        def _is_unread(self) -> bool:
            return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

        def _await_headers(self) -> None:
            self._stop_timer()
            self._timer = self.loop.call_later(header_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return Bounded


class _Server(uvicorn.Server):
    """uvicorn's server, ended by signals as a person expects.

    The first one lets running answers finish for a moment, the second ends the process at once.
    """

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        self._loop = asyncio.get_running_loop()
        kept = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)  # the engine's thread can't be interrupted
        self.end()

    def end(self) -> None:
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._application.begin_shutdown)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: the address can't be used; says why.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port is {port}, it must be from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"host {host!r}, port {port}: {why}; choose another --port") from None
    listener.setblocking(False)
    return listener


def serve(
    load: Callable[[], Engine],
    listener: socket.socket,
    access: Access,
    limits: Limits,
    *,
    log_prompts: bool = False,
) -> None:
    """Serve until a signal ends it.

    Raises:
        BaseException: what loading the engine, or the engine itself, has failed with.
    """
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.end()

    application = Application(load, access, limits, log_prompts=log_prompts, on_failure=failed)
    config = uvicorn.Config(
        application.asgi,
        http=protocol_with(limits.receive),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(limits.grace + 3)),
    )
    server = _Server(config, application)
    asyncio.run(server.serve(sockets=[listener]))
    if failures:
        raise failures[0]
