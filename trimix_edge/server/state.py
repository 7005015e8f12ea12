"""What the handlers of one application share."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from starlette.requests import Request

from trimix_edge.errors import TemplateError
from trimix_edge.server.engine_thread import EngineThread
from trimix_edge.server.errors import ApiError
from trimix_edge.server.metrics import Metrics
from trimix_edge.server.protocol import Engine
from trimix_edge.server.security import read_body

_log = logging.getLogger("trimix_edge.server")
_PROBE = "4f1d2a-system-probe"


@dataclass(frozen=True)
class Limits:
    """Bounds of what one client can take.

    Attributes:
        body: bytes of a request's body.
        receive: seconds in which a request has to arrive.
        stall: seconds that a client may leave its answer unread.
        heartbeat: seconds of silence after which a waiting stream gets a comment.
        waiting: requests that wait beside those that run.
        grace: seconds that running answers get when the server is stopped.
    """

    body: int = 4 << 20
    receive: float = 30.0
    stall: float = 60.0
    heartbeat: float = 10.0
    waiting: int = 64
    grace: float = 3.0


@dataclass
class State:
    """What the handlers share; made once for an application.

    Attributes:
        log_prompts: write prompts into the log.
        created: when the server was started, in seconds since 1970.
        folds_system: put system messages into the first user turn, see :func:`lacks_system`.
    """

    thread: EngineThread
    metrics: Metrics
    limits: Limits
    log_prompts: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    folds_system: bool = False
    _told: set[str] = field(default_factory=set)

    async def read(self, request: Request) -> bytes:
        """The body of a request, once the engine is there to use it.

        Raises:
            ApiError: 408, 413, 415 or 503.
        """
        _ = self.thread.engine
        try:
            return await asyncio.wait_for(read_body(request, self.limits.body), self.limits.receive)
        except asyncio.TimeoutError:
            raise ApiError(
                408,
                f"the body did not arrive within {self.limits.receive:g} seconds",
                code="timeout",
                headers={"Connection": "close"},
            ) from None

    def tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.warning(text)

    def log_prompt(self, prompt: object) -> None:
        if self.log_prompts:
            _log.info("prompt: %r", prompt)


def lacks_system(engine: Engine) -> bool:
    """Whether the chat template refuses a system message, or leaves it out without a word."""
    user = {"role": "user", "content": "x"}
    try:
        engine.render([user])
    except TemplateError:
        return False  # it has no use for any conversation, and will say so itself
    try:
        return _PROBE not in engine.render([{"role": "system", "content": _PROBE}, user])
    except TemplateError:
        return True
