"""Errors as HTTP responses, with the body that OpenAI's clients read."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

from trimix_edge.errors import (
    ContextOverflowError,
    GrammarError,
    PromptError,
    TemplateError,
    TriMixError,
    TrioConfigError,
    UsageError,
)

BAD_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"

_CLIENTS_FAULT = (UsageError, PromptError, TemplateError, GrammarError, TrioConfigError)
_CODES: dict[type[TriMixError], tuple[str, str | None]] = {
    GrammarError: ("invalid_grammar", "grammar"),
    TemplateError: ("template_error", "messages"),
    PromptError: ("invalid_prompt", None),
}


_LINE_ENDS = str.maketrans({c: f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"})


def to_json(content: Any) -> str:
    """Compact JSON with the letters of all scripts as they are; no lone surrogate gets through.

    What some clients take for the end of a line is escaped.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode("utf-8", "replace").decode("utf-8")


class Json(JSONResponse):
    """A response of :func:`to_json`."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


class ApiError(Exception):
    """A response that is an error.

    Attributes:
        status: the HTTP status.
        message: one line for a person.
        code: for programs.
        param: the field of the request that is at fault, as in ``messages.0.content``.
        kind: ``type`` of OpenAI's error bodies.
        extra: more fields of the error, beside OpenAI's.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = BAD_REQUEST,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = headers or {}
        self.extra = extra or {}

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "code", "param"}}``."""
        fields = {
            "message": self.message,
            "type": self.kind,
            "code": self.code,
            "param": self.param,
        }
        return {"error": {**fields, **self.extra}}

    def response(self) -> Json:
        return Json(self.body, self.status, headers=self.headers)


def unavailable(message: str, code: str, retry_after: int = 1) -> ApiError:
    """503, with the seconds after which another try makes sense."""
    return ApiError(
        503,
        message,
        code=code,
        kind=SERVER_ERROR,
        headers={"Retry-After": str(retry_after)},
    )


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told about an exception; of an unexpected one, nothing but that it was."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextOverflowError):
        return ApiError(
            400,
            f"the prompt has {error.n_prompt} tokens, the context holds {error.n_ctx} and needs "
            f"one of them for the answer: shorten the prompt",
            code="context_length_exceeded",
            extra={"n_prompt_tokens": error.n_prompt, "n_ctx": error.n_ctx},
        )
    if isinstance(error, _CLIENTS_FAULT):
        code, param = next(
            (told for kind, told in _CODES.items() if isinstance(error, kind)),
            ("invalid_value", None),
        )
        return ApiError(400, str(error), code=code, param=param)
    if isinstance(error, TriMixError):
        return ApiError(500, str(error), code="generation_failed", kind=SERVER_ERROR)
    if isinstance(error, MemoryError):
        return ApiError(500, "not enough memory", code="out_of_memory", kind=SERVER_ERROR)
    return ApiError(
        500, "the server has failed; its log says why", code="internal_error", kind=SERVER_ERROR
    )
