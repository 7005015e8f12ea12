"""The process and its terminal: signals, cursor, locale, and readers that leave."""

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

from trimix_edge import Message, TriMix

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]
PATIENCE = 60
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"

INTERRUPT_SECOND_BATCH = """
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

console.PATIENCE = 0  # a bar at once
sys.exit(cli.run(sys.argv[1:]))
"""

IN_THE_BACKGROUND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from trimix_edge import cli
from trimix_edge.cli import console

console.Bar.loading = lambda bar, role, fraction: os.kill(os.getpid(), signal.SIGINT)
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.fixture
def alone(slow: Path) -> list[str]:
    """Options for a slow model by itself, on one thread."""
    return ["--large-ins", str(slow), "--weights", "1,0", "--threads", "1"]


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_ctrl_c_stops_llama_cpp_inside_a_batch(
    start: Start, alone: list[str], tmp_path: Path
) -> None:
    prompt, codes = tmp_path / "prompt.txt", tmp_path / "codes.json"
    prompt.write_text(" the" * 4000)
    arguments = ["generate", "--file", prompt, "--batch", "1024", "--draft", "off", *alone]
    process = start(codes, *arguments, program=INTERRUPT_SECOND_BATCH)
    assert ended(process) == (130, b"", b"")
    aborted = 2
    assert json.loads(codes.read_text()) == [0, aborted]


def read_terminal(terminal: int, until: bytes) -> bytes:
    """What the terminal shows, up to a text; to the end of the process where that is empty."""
    shown, deadline = b"", time.monotonic() + PATIENCE
    while not until or until not in shown:
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
    prompt.write_text(" the" * (4000 if moment == "prompt" else 300))
    terminal, inside = pty.openpty()
    process = start(
        "generate", "--file", prompt, "--max-tokens", "4000", *alone,
        program=IMPATIENT, stdin=inside, stdout=inside, stderr=inside,
    )  # fmt: skip
    os.close(inside)
    shown = read_terminal(terminal, b"prompt of" if moment == "prompt" else SHOW_CURSOR)
    assert HIDE_CURSOR in shown, "a progress bar was there"
    if moment == "generation":
        shown += os.read(terminal, 1)
    process.send_signal(signal.SIGINT)
    shown += read_terminal(terminal, b"")
    os.close(terminal)
    assert process.wait(PATIENCE) == 130
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    assert b"Traceback" not in shown


def test_a_background_job_ignores_ctrl_c(start: Start, tiny: Path) -> None:
    """A shell starts those with SIGINT ignored: a load must not take it for an interrupt."""
    process = start("generate", tiny, "hi", "--max-tokens", "2", program=IN_THE_BACKGROUND)
    code, _, err = ended(process)
    assert (code, err) == (0, b"")


def test_a_reader_that_left_before_the_end_is_no_error(start: Start, tiny: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start("generate", "--json", tiny, "hi", stdout=writer)
    os.close(writer)
    assert ended(process) == (0, None, b"")


def test_output_is_utf8_whatever_the_locale(
    start: Start, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    grammar = tmp_path / "tibetan.gbnf"
    grammar.write_text('root ::= "བོད་ཡིག"', encoding="utf-8")
    process = start("generate", tiny, "hi", "--grammar", grammar)
    assert ended(process) == (0, "བོད་ཡིག\n".encode(), b"")


def test_an_interrupted_answer_stays_in_the_history(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimix_edge.cli import chat

    written: list[str] = []
    show = chat.write

    def interrupted_write(text: str) -> None:
        show(text)
        written.append(text)
        if sum(map(bool, written)) == 2 and text:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(chat, "write", interrupted_write)
    code, out, err = run("chat", tiny, stdin=b"save\nopen\n")
    first, second, rest = out.split("\n")
    assert (code, rest) == (0, "")
    assert "(interrupted)" in err
    history: list[Message] = [
        {"role": "user", "content": "save"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "open"},
    ]
    with TriMix.load(tiny) as trimix:
        assert second == trimix.chat(history).text


def test_an_interrupt_while_typing_clears_the_line(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter([KeyboardInterrupt(), "save", EOFError()])

    def typed(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    code, out, err = run("chat", tiny)
    assert (code, err) == (0, "")
    assert out.startswith("\n")
    assert len(out) > 2
