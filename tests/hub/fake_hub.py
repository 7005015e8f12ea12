"""A Hugging Face Hub on the loopback interface: the few endpoints that a download needs.

What it answers, headers and error codes included, is what huggingface_hub reads: the listing of a
repository (``/api/models/…``) and its files (``/owner/name/resolve/revision/file``), whole or from
some byte on.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files by name, and how the Hub treats who asks for them."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    token: str = ""

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Request:
    """One that was made: its method, its path, and the range of bytes that it asked for."""

    method: str
    path: str
    range: str
    authorization: str


@dataclass
class FakeHub:
    """The server's state: what it holds, how it misbehaves, and what it was asked.

    Attributes:
        breaks: by file, after how many bytes the connection is cut, once.
        status: answer everything with this.
        slow: until it is set, large files stop half-way.
        ignores_ranges: answer with the whole file, whatever range is asked for.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    status: int = 0
    slow: threading.Event | None = None
    ignores_ranges: bool = False
    requests: list[Request] = field(default_factory=list)

    def add(self, name: str, source: Path | dict[str, bytes], **settings: object) -> Repository:
        if isinstance(source, Path):
            source = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
        self.repositories[name] = Repository(source, **settings)  # type: ignore[arg-type]
        return self.repositories[name]

    @property
    def bodies(self) -> list[Request]:
        """Requests for the content of a file."""
        return [r for r in self.requests if r.method == "GET" and "/resolve/" in r.path]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        header = self.headers.get
        self.hub.requests.append(
            Request(self.command, path, header("Range", ""), header("Authorization", ""))
        )
        if self.hub.status:
            return self._refuse(self.hub.status, "")
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = listing or file
        repository = self.hub.repositories.get(found[1]) if found else None
        if found is None or repository is None:
            return self._refuse(401, "RepoNotFound")
        if repository.token and header("Authorization") != f"Bearer {repository.token}":
            return self._refuse(401, "GatedRepo" if repository.gated else "RepoNotFound")
        if (found[2] or "main") not in (*repository.revisions, repository.commit):
            return self._refuse(404, "RevisionNotFound")
        if listing:
            return self._list(found[1], repository)
        if repository.gated and not repository.token:
            return self._refuse(403, "GatedRepo")
        if found[3] not in repository.files:
            return self._refuse(404, "EntryNotFound")
        return self._send(repository, found[3], with_body=with_body)

    def _list(self, name: str, repository: Repository) -> None:
        siblings = [{"rfilename": n, "size": len(c)} for n, c in repository.files.items()]
        content = json.dumps({"id": name, "sha": repository.commit, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send(self, repository: Repository, name: str, *, with_body: bool) -> None:
        content = repository.files[name]
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.hub.ignores_ranges:
            start = None
        at = int(start[1]) if start else 0
        stop = min(int(start[2]) + 1, len(content)) if start and start[2] else len(content)
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - at))
        if start:
            self.send_header("Content-Range", f"bytes {at}-{stop - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return
        end = self.hub.breaks.pop(name, stop)
        if self.hub.slow is not None and len(content) > 10_000:
            half = (at + end) // 2
            self.wfile.write(content[at:half])
            self.wfile.flush()
            self.hub.slow.wait(60)
            at = half
        self.wfile.write(content[at:end])
        if end < stop:
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve, until the end of the block."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.slow is not None:
            hub.slow.set()
        server.shutdown()
        server.server_close()
