"""Ctrl-C at any moment, and a reader that leaves: the right exit code, and nothing but output."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[bytes]"]
PATIENCE = 60

INTERRUPT_LOADING = """
import os, signal, sys
from trimix_edge import cli
from trimix_edge.cli import console

def loading(bar, role, fraction):
    os.kill(os.getpid(), signal.SIGINT)  # from inside llama_model_load_from_file

console.Bar.loading = loading
sys.exit(cli.run(sys.argv[1:]))
"""

INTERRUPT_PROMPT = """
import json, os, signal, sys, threading
import llama_cpp
from trimix_edge import cli

real, codes = llama_cpp.llama_decode, []

def decode(context, batch):
    if len(codes) == 1:
        threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGINT)).start()
    codes.append(real(context, batch))
    return codes[-1]

llama_cpp.llama_decode = decode
code = cli.run(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump(codes, file)
sys.exit(code)
"""

IMPATIENT = """
import sys
from trimix_edge import cli
from trimix_edge.cli import console

console.PATIENCE = 0
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.fixture
def alone(slow: Path) -> list[str]:
    """Options for a slow model by itself, on one thread."""
    return ["--large-ins", str(slow), "--weights", "1,0", "--threads", "1"]


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_ctrl_c_while_loading(start: Start, alone: list[str]) -> None:
    process = start("generate", "hi", *alone, program=INTERRUPT_LOADING)
    assert ended(process) == (130, b"", b"")


def test_ctrl_c_stops_a_prompt_inside_a_batch(
    start: Start, alone: list[str], tmp_path: Path
) -> None:
    prompt, codes = tmp_path / "prompt.txt", tmp_path / "codes.json"
    prompt.write_text(" the" * 4000)
    arguments = ["generate", "--file", prompt, "--batch", "1024", *alone]
    process = start(codes, *arguments, program=INTERRUPT_PROMPT)
    assert ended(process) == (130, b"", b"")
    aborted = 2
    assert json.loads(codes.read_text()) == [0, aborted]


def test_text_streams_and_ctrl_c_stops_it(start: Start, alone: list[str]) -> None:
    process = start("generate", "hi", *alone, "--max-tokens", "4000")
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1), "the first text comes before the end"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert (code, err) == (130, b"")


def test_a_closed_pipe_is_no_error(start: Start, alone: list[str]) -> None:
    process = start("generate", "hi", *alone, "--max-tokens", "4000")
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(PATIENCE) == 0


def test_a_reader_that_left_before_the_end_is_no_error(start: Start, tiny: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start("generate", "--json", tiny, "hi", stdout=writer)
    os.close(writer)
    assert ended(process) == (0, None, b"")


def read_terminal(terminal: int, until: bytes) -> bytes:
    """What the terminal shows, up to a text or to the end of the process."""
    shown, deadline = b"", time.monotonic() + PATIENCE
    while until not in shown or not until:
        if not select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError(shown[-500:])
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux's end of a pseudo-terminal
            break
        if not part:
            break
        shown += part
    return shown


@pytest.mark.parametrize("moment", ["prompt", "generation"])
def test_ctrl_c_leaves_the_terminal_clean(
    start: Start, alone: list[str], tmp_path: Path, moment: str
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(" the" * 4000 if moment == "prompt" else " the" * 300)
    terminal, inside = pty.openpty()
    process = start(
        "generate", "--file", prompt, "--max-tokens", "4000", *alone,
        program=IMPATIENT, stdin=inside, stdout=inside, stderr=inside,
    )  # fmt: skip
    os.close(inside)
    hide, show = b"\x1b[?25l", b"\x1b[?25h"
    shown = read_terminal(terminal, b"prompt of" if moment == "prompt" else show)
    assert hide in shown, "a progress bar was there"
    if moment == "generation":
        shown += os.read(terminal, 1)
    process.send_signal(signal.SIGINT)
    shown += read_terminal(terminal, b"")
    os.close(terminal)
    assert process.wait(PATIENCE) == 130
    assert shown.rindex(show) > shown.rindex(hide)
    assert b"Traceback" not in shown


def test_output_is_utf8_whatever_the_locale(
    start: Start, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    grammar = tmp_path / "tibetan.gbnf"
    grammar.write_text('root ::= "བོད་ཡིག"', encoding="utf-8")
    process = start("generate", tiny, "hi", "--grammar", grammar)
    assert ended(process) == (0, "བོད་ཡིག\n".encode(), b"")


def test_a_background_job_ignores_ctrl_c(start: Start, tiny: Path) -> None:
    """A shell starts those with SIGINT ignored; a load must not take it for an interrupt."""
    ignoring: dict[str, Any] = {
        "program": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        + INTERRUPT_LOADING
    }
    code, out, err = ended(start("generate", tiny, "hi", "--max-tokens", "2", **ignoring))
    assert (code, err) == (0, b"")
    assert out
