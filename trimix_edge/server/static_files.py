"""The page's files: read once from the package, so that no path of a request opens any file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str
    tag: str


class Page:
    """The page and its parts, by path."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        for entry in (files("trimix_edge.server") / "static").iterdir():
            kind = _TYPES.get("." + entry.name.rpartition(".")[2])
            if kind is not None:
                data = entry.read_bytes()
                tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
                path = "/" if entry.name == "index.html" else f"/static/{entry.name}"
                self._files[path] = _File(data, kind, tag)

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self._files)

    async def serve(self, request: Request) -> Response:
        """``GET /`` and ``GET /static/NAME``."""
        file = self._files[request.url.path]
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.kind)
