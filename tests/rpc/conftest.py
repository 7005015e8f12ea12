"""Servers on loopback, and things that are none. Needs llama.cpp's module: see ``make rpc``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_trio

from trimix_edge import Role, cli
from trimix_edge.errors import RpcError
from trimix_edge.rpc.build import find_module

Run = Callable[..., tuple[int, str, str]]


class Server:
    """``trimix-edge rpc-server`` at a port of loopback, as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from trimix_edge.cli import main; main()", "rpc-server"),
                *("--port", "0", "--threads", "1", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        assert self.process.stderr is not None
        self.lines = [self.process.stderr.readline().decode()]
        while self.lines[-1] and "rpc-server at" not in self.lines[-1]:
            self.lines.append(self.process.stderr.readline().decode())
        assert self.lines[-1], f"the server does not start: {self.lines}"
        self.address = self.lines[-1].split()[3].rstrip(",")

    def send(self, signal_number: int) -> None:
        self.process.send_signal(signal_number)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Path]:
    """The files of the tiny trio."""
    files = write_trio(tmp_path_factory.mktemp("tiny"))
    return {Role(name): path for name, path in files.items()}


@pytest.fixture(scope="session", autouse=True)
def _module() -> None:
    try:
        find_module()
    except RpcError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of two servers that live as long as the tests."""
    with ExitStack() as stack:
        both = [Server() for _ in range(2)]
        for one in both:
            stack.callback(one.close)
        yield both[0].address, both[1].address


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers that a test may harm."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Server:
            server = Server(*arguments)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: its exit code, and what it printed."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        code = cli.run([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket of loopback that listens, and has room for one connection that nobody accepts."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as one:
        yield one
