"""Server-sent events, and how the server notices that a client has left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from trimix_edge.server.errors import to_json

_T = TypeVar("_T")

DONE = b"data: [DONE]\n\n"
COMMENT = b": waiting\n\n"
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class ClientGone(Exception):
    """The client has closed its connection."""


def event(content: dict[str, Any]) -> bytes:
    """One event. JSON has no line breaks of its own, so that one data line is enough."""
    return f"data: {to_json(content)}\n\n".encode()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Awaitable[_T]) -> _T:
    """The result of ``work``, which is cancelled as soon as the client leaves.

    Raises:
        ClientGone: it has left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class EventStream:
    """An ASGI response that ends when its events do, its client leaves, or stops reading.

    Args:
        events: encoded events; closed in any case.
        on_close: called once at the end, also if no event was ever asked for.
        stall: seconds that a client may leave its buffers full.
    """

    status_code = 200

    def __init__(
        self, events: AsyncIterator[bytes], on_close: Callable[[], None], stall: float
    ) -> None:
        self._events = events
        self._on_close = on_close
        self._stall = stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientGone, asyncio.TimeoutError, OSError):
                await while_connected(receive, self._send(send))
        finally:
            self._on_close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        async for data in self._events:
            message = {"type": "http.response.body", "body": data, "more_body": True}
            await asyncio.wait_for(send(message), self._stall)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
