"""A server on a real socket, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from trimix_edge.server.app import Application
from trimix_edge.server.security import Access
from trimix_edge.server.serving import MAX_HEADERS, listen, protocol_with
from trimix_edge.server.state import Limits

PATIENCE = 30.0


@dataclass
class Running:
    """A server that listens."""

    port: int
    engine: Any
    application: Application

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        return httpx.post(self.url + path, timeout=PATIENCE, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=PATIENCE, **options)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def events(self, path: str, body: dict[str, Any]) -> list[Any]:
        """All events of a stream; the last one is the text ``[DONE]``."""
        found: list[Any] = []
        with httpx.stream("POST", self.url + path, json=body, timeout=PATIENCE) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    text = line[6:]
                    found.append(text if text == "[DONE]" else json.loads(text))
        return found


@contextlib.contextmanager
def running(
    load: Callable[[], Any],
    access: Access | None = None,
    limits: Limits | None = None,
    *,
    wait: bool = True,
    log_prompts: bool = False,
) -> Iterator[Running]:
    """Serve the engine that ``load`` makes until the block is left."""
    loaded: list[Any] = []

    def keep() -> Any:
        loaded.append(load())
        return loaded[0]

    limits = limits or Limits()
    application = Application(keep, access, limits, log_prompts=log_prompts)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        application.asgi,
        http=protocol_with(limits.receive),
        ws="none",
        log_config=None,
        access_log=False,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
    )
    thread.start()
    try:
        until(lambda: server.started)
        if wait:
            until(lambda: application.state.thread.ready)
        port = listener.getsockname()[1]
        yield Running(port, loaded[0] if loaded else None, application)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait for something; fails if it never happens."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
