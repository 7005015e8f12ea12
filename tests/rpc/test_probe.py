"""Whatever stands at an address that is no server is one clear line, within seconds."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import monotonic

import pytest

from trimix_edge.errors import RpcError, UsageError
from trimix_edge.rpc import probe as probing
from trimix_edge.rpc.probe import probe
from trimix_edge.values import endpoint


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def answering(listener: socket.socket, answer: bytes) -> Iterator[str]:
    """A peer that reads a little and answers this."""

    def answer_one() -> None:
        with listener.accept()[0] as connection:
            connection.recv(64)
            connection.sendall(answer)

    thread = threading.Thread(target=answer_one)
    thread.start()
    yield address(listener)
    thread.join()


def test_nobody_listens(listener: socket.socket) -> None:
    where = address(listener)
    listener.close()
    with pytest.raises(RpcError, match=f"{where} refuses the connection"):
        probe(where)


def test_a_machine_that_does_not_answer(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "CONNECT_SECONDS", 0.3)
    waiting = [socket.socket() for _ in range(8)]  # Linux drops what comes once the queue is full
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
    began = monotonic()
    with pytest.raises(RpcError, match=r"can't be reached: no answer in 0\.3 seconds"):
        probing.connect(address(listener), 0.3)
    assert monotonic() - began < 5
    for one in waiting:
        one.close()


def test_a_peer_that_accepts_and_says_nothing(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "HELLO_SECONDS", 0.3)
    with pytest.raises(RpcError, match=r"does not answer in 0\.3 seconds"):
        probe(address(listener))


def test_a_server_of_http() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(RpcError, match=r"is no RPC server|does not answer in"):
            probe(f"127.0.0.1:{server.server_port}")
        thread.join()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "is no RPC server of llama.cpp"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "is no RPC server"),
        (b"\x1c", "is no RPC server"),
        (struct.pack("<QBBBB24x", 28, 6, 0, 0, 0), r"speaks version 6\.0\.0 .*, 7\.0 is spoken"),
        (struct.pack("<QBBBB24x", 28, 7, 1, 0, 0), r"speaks version 7\.1\.0 "),
        (struct.pack("<Q", 1 << 60) + bytes(28), "is no RPC server"),
        (probing.BUSY, "works for another client"),
    ],
)
def test_a_peer_that_answers_something_else(
    listener: socket.socket, answer: bytes, message: str
) -> None:
    with answering(listener, answer) as where, pytest.raises(RpcError, match=message):
        probe(where)


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(RpcError, match=r"no\.such\.host\.invalid:50052: there is no such host"):
        probe("no.such.host.invalid:50052")


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":50052", "host:0", "host:70000", "host:x", "a:b:1", "[::1]"]
)
def test_an_address_of_another_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not HOST:PORT, as in"):
        endpoint(text)


def test_addresses() -> None:
    read: Callable[[str], tuple[str, int]] = endpoint
    assert read("pi.local:50052") == ("pi.local", 50052)
    assert read(" [fe80::1]:1 ") == ("fe80::1", 1)
