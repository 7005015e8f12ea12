"""chat: history, /reset, and Ctrl-C that does not leave."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimix_edge import TriMix

Run = Callable[..., Any]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The conversations that reach the model."""
    conversations: list[list[str]] = []
    real = TriMix.stream

    def stream(self: TriMix, prompt: Any, **options: Any) -> Any:
        conversations.append([message["content"] for message in prompt])
        return real(self, prompt, **options)

    monkeypatch.setattr(TriMix, "stream", stream)
    return conversations


def test_history_grows_with_every_turn(run: Run, tiny: Path, seen: list[list[str]]) -> None:
    code, out, err = run("chat", tiny, "-n", "4", stdin=b"one\n\ntwo\n")
    assert (code, err) == (0, "")
    first, second = seen
    assert first == ["one"]
    assert (second[0], second[2]) == ("one", "two")
    assert out == f"{second[1]}\n" + out.removeprefix(f"{second[1]}\n")


def test_reset_forgets_all_but_the_system_message(
    run: Run, tiny: Path, seen: list[list[str]]
) -> None:
    run("chat", tiny, "-n", "2", "--system", "file", stdin=b"one\n/reset\ntwo\n")
    assert seen[0] == ["file", "one"]
    assert seen[1] == ["file", "two"]


def test_a_conversation_that_overflows_goes_on(run: Run, tiny: Path, seen: list[list[str]]) -> None:
    long = b"the file " * 300
    code, _, err = run("chat", tiny, "-n", "2", stdin=long + b"\nok\n")
    assert code == 0
    assert "forget the conversation with /reset" in err
    assert seen[1] == ["ok"]


def test_ctrl_c_interrupts_the_answer_and_not_the_chat(
    start: Callable[..., subprocess.Popen[bytes]], slow: Path
) -> None:
    process = start(
        "chat", "-n", "4000", "--weights", "1,0", "--large-ins", slow, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hi\n")
    process.stdin.flush()
    process.stdout.read(8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b"interrupted" in err
    assert b"Traceback" not in err
