"""The command line, run in this process on the tiny trio, or in a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_models import END, TURN_END, Shape, random_tensors, tokenizer, write_gguf, write_trio

from trimix_edge import cli

MANIFEST = """
name = "tiny"

[models]
large_ins = "large_ins.gguf"
small_cpt = "small_cpt.gguf"
small_base = "small_base.gguf"

[fusion]
weights = [0.5, 0.8]

[generation]
max_tokens = 12

[context]
n_ctx = 256
kv_type = "f32"
"""


class Result(NamedTuple):
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three files and a manifest."""
    folder = tmp_path_factory.mktemp("tiny")
    write_trio(folder)
    (folder / "trio.toml").write_text(MANIFEST, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes milliseconds a token, and never ends."""
    shape = Shape(hidden=256, layers=4, kv_heads=8, ffn=1024, n_ctx=4096)
    tensors = random_tensors(shape, 3)
    for token in tokenizer()["added_tokens"]:
        if token["content"] in (END, TURN_END):
            tensors["lm_head.weight"][token["id"]] = 0
    return write_gguf(tmp_path_factory.mktemp("slow"), "slow", shape, tensors)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
        text = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", text)
        code = cli.run([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the command line, or a program that prepares it, as a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        *arguments: str | Path, program: str | None = None, **options: object
    ) -> subprocess.Popen[bytes]:
        program = program or "from trimix_edge.cli import main; main()"
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            **{**streams, **options},  # type: ignore[call-overload]
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
