"""A server that is lost is one line within seconds, whatever llama.cpp does; Python lives on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from tiny_models import GREEDY_TRIO, Shape, random_tensors, write_gguf

from trimix_edge import TriMix
from trimix_edge.errors import RpcError
from trimix_edge.rpc.probe import probe

SECONDS = 10.0


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes milliseconds a token, and never ends."""
    shape = Shape(hidden=256, layers=4, kv_heads=8, ffn=1024, n_ctx=4096)
    return write_gguf(tmp_path_factory.mktemp("slow"), "slow", shape, random_tensors(shape, 3))


def load(slow: Path, server: str) -> TriMix:
    return TriMix.load(
        GREEDY_TRIO,
        models={"large_ins": slow},
        rule="single:large_ins",
        rpc=server,
        context={"n_ctx": 4096, "n_threads": 1, "n_batch": 32},
    )


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("where", ["prompt", "generation"])
def test_a_server_that_goes_is_an_error_within_seconds(
    slow: Path, start: Callable[..., Any], how: str, where: str
) -> None:
    server = start()
    with load(slow, server.address) as trimix:
        lost: list[float] = []

        def lose(*_: object) -> None:
            if not lost:
                lost.append(monotonic())
                server.send(signal.Signals[how])

        in_prompt = where == "prompt"
        prompt = list(range(20, 320)) * (8 if in_prompt else 1)
        stream = trimix.stream(
            prompt,
            max_tokens=3000,
            draft="off",
            on_progress=lose if in_prompt else None,
        )
        if not in_prompt:
            for _ in range(3):
                next(stream)
            lose()
        with pytest.raises(RpcError, match=f"{server.address} was lost: ") as caught:
            list(stream)
        assert monotonic() - lost[0] < SECONDS
        assert "\n" not in str(caught.value)
        with pytest.raises(RpcError, match="was lost"):
            trimix.generate([1, 2, 3])
    if how == "SIGSTOP":
        with pytest.raises(RpcError, match="does not answer"):
            probe(server.address)


def test_the_command_line_ends_with_one_line_and_code_1(
    slow: Path, start: Callable[..., Any]
) -> None:
    server = start()
    with subprocess.Popen(
        [
            *(sys.executable, "-c", "from trimix_edge.cli import main; main()", "generate", " the"),
            *("--large-ins", slow, "--rule", "single:large_ins", "--rpc", server.address),
            *("--ctx", "4096", "-n", "-1", "--no-chat", "--greedy", "--draft", "off"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(4)
        server.send(signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.count(b"\n") == 1
    assert f"trimix-edge: {server.address} was lost: ".encode() in err


def test_several_threads_hear_of_it(slow: Path, start: Callable[..., Any]) -> None:
    server = start()
    caught: list[Exception] = []
    with load(slow, server.address) as trimix:

        def ask() -> None:
            try:
                trimix.generate([30, 31, 32], max_tokens=3000)
            except Exception as error:
                caught.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        server.send(signal.SIGKILL)
        for thread in threads:
            thread.join(SECONDS)
        assert [type(error) for error in caught] == [RpcError, RpcError]


def test_the_other_process_may_die(slow: Path, servers: tuple[str, str]) -> None:
    with load(slow, servers[0]) as trimix:
        worker = trimix.trio.worker
        assert worker is not None
        worker._process.kill()
        with pytest.raises(RpcError, match="the process that talks to servers has ended"):
            trimix.generate([1, 2, 3])
    with load(slow, servers[0]) as trimix:
        assert len(trimix.generate([20, 21], max_tokens=2).token_ids) == 2


def test_what_is_no_server_is_one_line_of_the_command_line(
    slow: Path, run: Callable[..., Any], listener: socket.socket
) -> None:
    port = listener.getsockname()[1]

    def generate() -> tuple[int, str, str]:
        began = monotonic()
        found: tuple[int, str, str] = run(
            *("generate", "x", "--large-ins", slow, "--rule", "single:large_ins"),
            *("--rpc", f"127.0.0.1:{port}"),
        )
        assert monotonic() - began < SECONDS
        return found

    code, out, err = generate()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"127.0.0.1:{port} does not answer in 4 seconds" in err
    listener.close()
    code, out, err = generate()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"127.0.0.1:{port} refuses the connection" in err
