"""A server answers one client at a time, says that it lives, and ends on Ctrl-C."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from trimix_edge.errors import RpcError
from trimix_edge.llama import rpc
from trimix_edge.rpc import build
from trimix_edge.rpc.probe import _REQUEST, ALIVE, connect, probe, read_exactly


def has_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_second_client_is_told_that_the_server_is_busy(servers: tuple[str, str]) -> None:
    with connect(servers[0]) as first:
        first.sendall(_REQUEST)
        assert len(read_exactly(first, 36)) == 36
        with pytest.raises(RpcError, match="works for another client"):
            probe(servers[0])
    probe(servers[0])


def test_a_server_says_that_it_lives_while_it_works(servers: tuple[str, str]) -> None:
    with connect(servers[0]) as client, connect(servers[0]) as other:
        client.sendall(_REQUEST)
        for _ in range(2):
            other.sendall(ALIVE)
            assert read_exactly(other, len(ALIVE)) == ALIVE


def test_what_is_no_command_is_sent_away(servers: tuple[str, str]) -> None:
    with connect(servers[0]) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert has_ended(client)
    with connect(servers[0]) as client:  # a hello with a wrong size, and garbage
        client.sendall(b"\x0e" + b"\xff" * 64)
        assert has_ended(client)
    probe(servers[0])


def test_ctrl_c_ends_a_server_with_code_0(start: Callable[..., Any]) -> None:
    server = start()
    server.send(signal.SIGINT)
    out, err = server.process.communicate(timeout=10)
    assert (server.process.returncode, out) == (0, b"")
    assert err == b"trimix-edge: stopped\n"


def test_a_server_that_others_can_reach_warns(start: Callable[..., Any]) -> None:
    lines = start("--host", "0.0.0.0").lines
    assert len(lines) == 2
    assert "WARNING: whoever reaches 0.0.0.0:" in lines[0]
    assert "no password" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "port is 70000, it must be from 0 to 65535"),
        (["--threads", "-1"], "threads is -1, it must be from 0 to 1024"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid:50052 can't be listened at"),
    ],
)
def test_bad_arguments_are_one_line(
    run: Callable[..., Any], arguments: list[str], message: str
) -> None:
    code, out, err = run("rpc-server", *arguments)
    assert code in (1, 2)
    assert out == ""
    assert message in err.replace("--", "")
    assert err.count("\n") == 1


def test_a_port_in_use_is_one_line(run: Callable[..., Any], listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    code, _, err = run("rpc-server", "--port", port)
    assert code == 1
    assert f"127.0.0.1:{port} can't be listened at: Address already in use" in err


def test_without_the_module_a_line_says_how_to_get_it(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(build, "module_path", lambda: tmp_path / "none.so")
    code, _, err = run("rpc-server")
    assert code == 1
    assert err.count("\n") == 1
    assert "make rpc" in err


def test_the_module_that_came_with_llama_cpp_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """As in a bundle, for a machine without a compiler."""
    monkeypatch.setattr(build, "module_path", lambda: tmp_path / "none.so")
    monkeypatch.setattr(rpc, "library_folder", lambda: tmp_path)
    (tmp_path / build.CARRIED).touch()
    assert build.find_module() == tmp_path / build.CARRIED


def test_a_folder_that_is_no_llama_cpp_is_one_line(tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trimix_edge.rpc.build", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "ggml-rpc.cpp is missing" in done.stderr
