"""Who may ask, from where, and how much: the ASGI layer that every request passes first."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimix_edge.server.errors import ApiError, as_api_error
from trimix_edge.server.metrics import Metrics

_log = logging.getLogger("trimix_edge.server")

PUBLIC = frozenset({"/health", "/v1/health"})
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": CSP,
}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        keys: any of them is enough; none are needed where there are none.
        origins: pages of these may use the server from a browser, ``*`` for all.
        hosts: names that the server is known by, beside IP addresses, ``localhost`` and the
            machine's own name.
    """

    keys: Sequence[str] = ()
    origins: Collection[str] = ()
    hosts: Collection[str] = ()

    def knows_host(self, header: str) -> bool:
        """Whether a ``Host`` header names this server. A page that rebinds its own name to this
        machine's address sends that name; an address can't be rebound."""
        name = _host_name(header)
        own = socket.gethostname().lower()
        if name in {"localhost", own, f"{own}.local", *(host.lower() for host in self.hosts)}:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def allows_origin(self, origin: str, host: str) -> bool:
        own = {f"{scheme}://{host}" for scheme in ("http", "https")}
        return origin in own or "*" in self.origins or origin in self.origins

    def has_key(self, headers: Headers) -> bool:
        """Whether a valid key was sent; each comparison takes the same time."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        matches = [hmac.compare_digest(given.encode(), key.encode()) for key in self.keys]
        return any(matches)


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".").lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Checks each request, adds the headers of each response, and writes the access log.

    The log has the method, the path, the status and the time: nothing of what was sent.
    """

    def __init__(
        self, app: ASGIApp, access: Access, metrics: Metrics, pages: Collection[str]
    ) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._public = PUBLIC | frozenset(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        status = 499  # no response: the client has left

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), origin)
            await send(message)

        try:
            self._check(scope, headers)
            if scope["method"] == "OPTIONS" and origin is not None:
                await _preflight(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except ApiError as error:
            await error.response()(scope, receive, answer)
        except Exception as error:
            _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            if status == 499:
                await as_api_error(error).response()(scope, receive, answer)
        finally:
            took = time.perf_counter() - begin
            route = scope.get("route_name", "other")
            self._metrics.answered(route, status, took)
            path = scope["path"][:80].encode("ascii", "backslashreplace").decode()
            _log.info("%s %s %d %.0f ms", scope["method"], path, status, took * 1e3)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._access.knows_host(host):
            raise ApiError(
                403,
                "the Host header names no host of this server: ask by its address, or start it "
                "with --allow-host NAME",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._access.allows_origin(origin, host):
            raise ApiError(
                403,
                "pages of this origin may not use the server: start it with --cors ORIGIN",
                code="origin_not_allowed",
            )
        preflight = scope["method"] == "OPTIONS" and origin is not None
        public = scope["path"] in self._public or preflight
        if self._access.keys and not public and not self._access.has_key(headers):
            raise ApiError(
                401,
                "a valid API key is needed: send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                kind="authentication_error",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _add_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value
        if "*" in self._access.origins:
            headers["Access-Control-Allow-Origin"] = "*"
        elif self._access.origins:
            headers.add_vary_header("Origin")
            if origin in self._access.origins and origin is not None:
                headers["Access-Control-Allow-Origin"] = origin


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what a browser asks before a request of another page, whose origin was checked.

    Any header may come with it: clients of the API send some that only OpenAI reads.
    """
    wanted = Headers(scope=scope).get("access-control-request-headers", "")
    headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", wanted.encode("latin-1")),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Access-Control-Request-Headers"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request, up to ``limit`` bytes.

    Raises:
        ApiError: 413, or 415: a page elsewhere can send other types without asking first.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, "the Content-Type must be application/json", code="unsupported_media_type"
        )
    too_large = ApiError(
        413,
        f"the body is larger than {limit} bytes",
        code="body_too_large",
        headers={"Connection": "close"},
    )
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large
    return bytes(body)
