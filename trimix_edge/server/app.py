"""The ASGI application: which path does what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from trimix_edge.server import completions, info
from trimix_edge.server.engine_thread import EngineThread
from trimix_edge.server.errors import ApiError, as_api_error
from trimix_edge.server.metrics import Metrics
from trimix_edge.server.protocol import Engine
from trimix_edge.server.security import Access, Guard
from trimix_edge.server.state import Limits, State, lacks_system
from trimix_edge.server.static_files import Page

_Handler = Callable[[Request], Any]


class Application:
    """One server: the ASGI application and the engine behind it.

    Args:
        load: makes the engine, in a thread of its own, once the server listens.
        access: who may ask.
        limits: what one client can take.
        log_prompts: write prompts into the log.
        on_failure: called when the engine can't be loaded, or fails for good.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        access: Access | None = None,
        limits: Limits | None = None,
        *,
        log_prompts: bool = False,
        on_failure: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        limits = limits or Limits()
        metrics = Metrics()

        def load_and_probe() -> Engine:
            engine = load()
            self.state.folds_system = lacks_system(engine)
            return engine

        thread = EngineThread(load_and_probe, limits.waiting, on_failure)
        self.state = State(thread, metrics, limits, log_prompts)
        metrics.watch("trimix_requests_running", "Generations that run.", lambda: thread.n_running)
        metrics.watch(
            "trimix_requests_waiting",
            "Generations that wait for a place.",
            lambda: thread.n_active - thread.n_running,
        )
        page = Page()
        app = Starlette(
            routes=_routes(page),
            exception_handlers={Exception: _failed, HTTPException: _http_error},
            lifespan=self._lifespan,
        )
        app.state.server = self.state
        self.asgi: ASGIApp = Guard(app, access or Access(), metrics, page.paths)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.state.thread.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            await asyncio.to_thread(self.state.thread.close)

    def begin_shutdown(self) -> None:
        """Accept nothing more; end what still runs after the time that the limits grant."""
        thread = self.state.thread
        thread.stop_accepting()
        error = ApiError(503, "the server is shutting down", code="shutting_down")
        loop = asyncio.get_running_loop()
        loop.call_later(self.state.limits.grace, thread.end_all, error)


def _routes(page: Page) -> list[Route]:
    handlers: list[tuple[str, str, _Handler]] = [
        ("GET", "/health", info.health),
        ("GET", "/models", info.models),
        ("GET", "/models/{name:path}", info.model),
        ("POST", "/chat/completions", completions.chat),
        ("POST", "/completions", completions.complete),
    ]
    plain: list[tuple[str, str, _Handler]] = [
        ("POST", "/tokenize", info.tokenize),
        ("POST", "/detokenize", info.detokenize),
        ("POST", "/apply-template", info.apply_template),
        ("GET", "/props", info.props),
        ("GET", "/metrics", info.metrics),
    ]
    routes = [
        Route(prefix + path, _named(path, handler), methods=[method])
        for prefix in ("/v1", "")
        for method, path, handler in handlers
    ]
    routes += [Route(path, _named(path, h), methods=[method]) for method, path, h in plain]
    routes += [Route(path, _named("/", page.serve), methods=["GET"]) for path in page.paths]
    return routes


def _named(name: str, handler: _Handler) -> _Handler:
    """The handler, with its errors told as OpenAI's, and the name that the metrics give it."""

    async def handle(request: Request) -> Any:
        request.scope["route_name"] = name.partition("/{")[0]
        try:
            return await handler(request)
        except ApiError as error:
            return error.response()
        except Exception as error:
            told = as_api_error(error)
            if told.code == "internal_error":
                raise
            return told.response()

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        message = f"{request.method} is not what this path is for"
    else:
        message = "nothing is at this path; the API is under /v1"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    headers = dict(error.headers or {})
    return ApiError(error.status_code, message, code=code, headers=headers).response()


async def _failed(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()
