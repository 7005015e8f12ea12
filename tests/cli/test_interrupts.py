"""Ctrl-C and closed pipes: the right exit code, a clean terminal, and no traceback."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

Start = Callable[..., "subprocess.Popen[bytes]"]

# Sends the signal where the test says, from inside the running program.
PROGRAM = """
import os, signal, threading
from trimix_edge.cli import console, main
from trimix_edge.llama.context import LlamaContext

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

{patch}
main()
"""
DURING_LOAD = """
def loading(self, role, fraction):
    interrupt()
console.Bar.loading = loading
"""
DURING_PROMPT = """
real = LlamaContext._decode_abortably
def decode(self, *arguments):
    LlamaContext._decode_abortably = real
    threading.Timer(0.02, interrupt).start()
    return real(self, *arguments)
LlamaContext._decode_abortably = decode
"""


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_ctrl_c_while_loading(start: Start, slow: Path) -> None:
    program = PROGRAM.format(patch=DURING_LOAD)
    process = start("generate", "hi", "--weights", "1,0", "--large-ins", slow, program=program)
    assert end_of(process) == (130, b"", b"")


def test_ctrl_c_inside_a_long_prompt(start: Start, slow: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("the file " * 400)
    process = start(
        "generate", "--file", prompt, "--weights", "1,0", "--large-ins", slow,
        program=PROGRAM.format(patch=DURING_PROMPT),
    )  # fmt: skip
    assert end_of(process) == (130, b"", b"")


def test_ctrl_c_while_generating_keeps_what_was_shown(start: Start, slow: Path) -> None:
    process = start("generate", "hi", "-n", "4000", "--weights", "1,0", "--large-ins", slow)
    assert process.stdout is not None
    shown = process.stdout.read(8)
    process.send_signal(signal.SIGINT)
    code, _, err = end_of(process)
    assert (code, err) == (130, b"")
    assert len(shown) == 8


def test_a_reader_that_leaves_is_no_error(start: Start, slow: Path) -> None:
    process = start("generate", "hi", "-n", "4000", "--weights", "1,0", "--large-ins", slow)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
