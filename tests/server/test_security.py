"""Keys, hosts, origins, sizes and times: what the server refuses, and what it keeps to itself."""

from __future__ import annotations

import json
import logging
import socket

import httpx
import pytest
from server.fake_engine import FakeEngine
from server.running import Running, running, until
from server.test_streams import head

from trimix_edge.server import serving
from trimix_edge.server.security import Access, is_loopback
from trimix_edge.server.state import Limits

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"X-Api-Key": "sécret"},
     {"Authorization": "Basic secret"}],
)  # fmt: skip
def test_without_a_valid_key_nothing_but_health_and_the_page_is_told(
    headers: dict[str, str],
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    with running(FakeEngine, Access(keys=("secret", "other"))) as server:
        for path in ("/v1/models", "/props", "/metrics"):
            response = server.get(path, headers=sent)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
        assert server.post(CHAT, {"messages": USER}, headers=sent).status_code == 401
        assert server.get("/health").status_code == 200
        assert server.get("/").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer secret"},
        {"Authorization": "bearer other"},
        {"X-Api-Key": "secret"},
    ],
)
def test_each_key_opens(headers: dict[str, str]) -> None:
    with running(FakeEngine, Access(keys=("secret", "other"))) as server:
        assert server.post(CHAT, {"messages": USER}, headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
def test_a_name_that_was_rebound_to_this_machine_is_refused(quick: Running, host: str) -> None:
    for path in ("/", "/health", "/v1/models"):
        response = quick.get(path, headers={"Host": host})
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:80", "10.0.0.7", "LOCALHOST"])
def test_addresses_and_own_names_are_hosts(quick: Running, host: str) -> None:
    assert quick.get("/v1/models", headers={"Host": host}).status_code == 200


def test_a_host_can_be_allowed() -> None:
    with running(FakeEngine, Access(hosts=("School.example",))) as server:
        assert server.get("/health", headers={"Host": "school.example:8080"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9"])
def test_pages_of_other_origins_are_refused_and_never_reflected(
    quick: Running, origin: str
) -> None:
    response = quick.post(CHAT, {"messages": USER}, headers={"Origin": origin})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    preflight = httpx.options(quick.url + CHAT, headers={"Origin": origin})
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers


def test_a_named_origin_is_let_in_without_credentials() -> None:
    with running(FakeEngine, Access(keys=("k",), origins=("https://ok.example",))) as server:
        origin = {"Origin": "https://ok.example"}
        asked = {"Access-Control-Request-Headers": "content-type,x-stainless-lang"}
        preflight = httpx.options(server.url + CHAT, headers={**origin, **asked})
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "content-type,x-stainless-lang"
        for response in (
            preflight,
            server.post(CHAT, {"messages": USER}, headers={**origin, "X-Api-Key": "k"}),
        ):
            assert response.headers["access-control-allow-origin"] == "https://ok.example"
            assert "access-control-allow-credentials" not in response.headers
            assert "origin" in response.headers["vary"].lower()
        other = server.post(CHAT, {"messages": USER}, headers={"Origin": "https://no.example"})
        assert other.status_code == 403


def test_a_form_of_another_page_is_refused(quick: Running) -> None:
    body = json.dumps({"messages": USER})
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = quick.post(CHAT, content=body, headers={"Content-Type": kind})
        assert response.status_code == 415


def all_of(raw: socket.socket) -> bytes:
    return b"".join(iter(lambda: raw.recv(65536), b""))


@pytest.mark.parametrize("sent", [0, 1 << 20, 100 << 20])
def test_a_body_of_100_mb_gets_its_answer_whatever_is_sent_of_it(quick: Running, sent: int) -> None:
    with quick.raw() as raw:
        raw.sendall(head(CHAT, 100 << 20))
        raw.sendall(b"x" * sent)  # all of it before anything is read
        answer = all_of(raw)
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b"body_too_large" in answer


def test_a_client_library_reads_the_answer_to_100_mb(quick: Running) -> None:
    headers = {"Content-Type": "application/json"}
    response = quick.post(CHAT, content=b"x" * (100 << 20), headers=headers)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert response.headers["connection"] == "close"


def test_who_sends_on_after_a_refusal_is_cut_off(
    quick: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "LINGER_SECONDS", 0.3)
    with quick.raw() as raw:
        raw.sendall(head(CHAT, 10**15))
        until(lambda: _is_cut_off(raw, 1000))
    monkeypatch.setattr(serving, "LINGER_SECONDS", 60)
    monkeypatch.setattr(serving, "LINGER_BYTES", 1 << 20)
    with quick.raw() as raw:
        raw.sendall(head(CHAT, 10**15))
        assert any(_is_cut_off(raw, 1 << 20) for _ in range(100))


def _is_cut_off(raw: socket.socket, size: int) -> bool:
    try:
        raw.sendall(b"x" * size)
    except OSError:
        return True
    return False


def test_a_chunked_body_of_100_mb_gets_its_answer(quick: Running) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with quick.raw() as raw:
        raw.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        for _ in range(1600):
            raw.sendall(chunk)
        assert b" 413 " in all_of(raw).split(b"\r\n")[0]
    assert quick.get("/health").status_code == 200


def test_headers_without_end_are_cut_off(quick: Running) -> None:
    with quick.raw() as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        answer = b""
        try:
            for _ in range(10_000):
                raw.sendall(b"X-Filler: " + b"y" * 1000 + b"\r\n")
            answer = raw.recv(65536)
        except OSError:
            pass
    assert b" 200 " not in answer
    assert quick.get("/health").status_code == 200


def test_half_open_and_slow_connections_are_closed_and_hinder_nobody() -> None:
    with running(FakeEngine, limits=Limits(receive=0.4)) as server:
        silent = [server.raw() for _ in range(20)]
        slow = [server.raw() for _ in range(5)]
        for raw in slow:
            raw.sendall(b"GET /health HTT")
        body = [server.raw() for _ in range(5)]
        for raw in body:
            raw.sendall(head(CHAT, 500) + b'{"messages"')
        assert server.post(CHAT, {"messages": USER}).status_code == 200
        for raw in silent + slow:
            assert raw.recv(4096) == b""  # closed
        for raw in body:
            assert b" 408 " in raw.recv(4096).split(b"\r\n")[0]
        for raw in silent + slow + body:
            raw.close()


def test_a_kept_connection_that_sends_half_a_request_is_closed() -> None:
    with running(FakeEngine, limits=Limits(receive=0.4)) as server, server.raw() as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in raw.recv(65536)
        raw.sendall(b"GET /health HTT")
        while raw.recv(65536):
            pass


def test_nonsense_instead_of_http_gets_400(quick: Running) -> None:
    with quick.raw() as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert b" 400 " in raw.recv(4096)


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/../../etc/passwd",
     "/static//etc/passwd", "/static/nothing.js", "/static/"],
)  # fmt: skip
def test_no_path_of_a_request_opens_a_file(quick: Running, path: str) -> None:
    with quick.raw() as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b" 404 " in raw.recv(65536).split(b"\r\n")[0]


def test_every_response_forbids_other_sources(quick: Running) -> None:
    for path in ("/", "/health", "/nowhere"):
        headers = quick.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_nothing_of_a_prompt_is_logged_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "my dearest wish"
    turns = [{"role": "user", "content": secret}]
    with running(FakeEngine) as server:
        server.post(CHAT, {"messages": turns})
        server.post(CHAT, {"messages": turns, "rule": secret})
        server.post("/tokenize", {"content": secret})
        server.get(f"/health?q={secret}")
    assert "POST /v1/chat/completions 200" in _logged(caplog)
    assert "dearest" not in _logged(caplog)
    with running(FakeEngine, log_prompts=True) as server:
        server.post(CHAT, {"messages": turns})
    assert secret in _logged(caplog)


def _logged(caplog: pytest.LogCaptureFixture) -> str:
    """What the server has logged; the tests' own client logs as well."""
    of_server = ("trimix_edge", "uvicorn", "asyncio")
    return "\n".join(r.getMessage() for r in caplog.records if r.name.startswith(of_server))


def test_loopback_is_told_from_other_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))


def test_metrics_count_tokens_and_requests(quick: Running) -> None:
    def value(name: str) -> float:
        lines = quick.get("/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = value("trimix_generated_tokens_total")
    quick.post(CHAT, {"messages": USER})
    until(lambda: value("trimix_generated_tokens_total") == before + 6)
    assert value('trimix_requests_total{route="/chat/completions",status="200"}') > 0
    assert value("trimix_requests_running") == 0
    assert value("trimix_requests_waiting") == 0
