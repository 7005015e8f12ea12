"""chat: history, commands, and Ctrl-C that does not leave."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import edit_gguf

from trimix_edge import TriMix
from trimix_edge.cli.chat import banner
from trimix_edge.trios.manifest import TrioManifest

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


def test_commands_are_not_sent(run: Run, tiny: Path, tmp_path: Path, seen: list[list[str]]) -> None:
    saved = tmp_path / "talk.json"
    lines = f"/help\n/system file\none\n/save {saved}\n/nonsense\n/system\n//two\n/exit\nthree\n"
    code, out, err = run("chat", tiny, "-n", "2", stdin=lines.encode())
    assert code == 0
    answers = out.split("\n")
    assert seen == [["file", "one"], ["one", answers[0], "/two"]]
    assert json.loads(saved.read_text(encoding="utf-8")) == [
        {"role": "system", "content": "file"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": answers[0]},
    ]
    assert "/reset" in err
    assert "3 messages saved in" in err
    assert "no command /nonsense" in err


@pytest.mark.parametrize("name", ["", ".", "missing/talk.json", "there.json"])
def test_a_conversation_that_cannot_be_saved_goes_on(
    run: Run, tiny: Path, tmp_path: Path, seen: list[list[str]], name: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("mine")
    code, _, err = run("chat", tiny, "-n", "2", stdin=f"/save {name}\nok\n".encode())
    assert (code, seen) == (0, [["ok"]])
    assert err.count("\n") == 1
    assert (tmp_path / "there.json").read_text() == "mine"


def test_the_banner_says_what_a_trio_is_for() -> None:
    shown = banner(TrioManifest.find("dzongkha"))
    assert "translates software manuals" in shown
    assert "does not converse" in shown
    assert "/help" in shown


def test_a_model_without_template_is_told_without_flags_that_chat_lacks(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    bare = edit_gguf(
        tiny / "large_ins.gguf", tmp_path / "bare.gguf", {}, drop="tokenizer.chat_template"
    )
    code, out, err = run("chat", "--weights", "1,0", "--large-ins", bare, stdin=b"hi\n")
    assert (code, out) == (1, "")
    assert "no chat template" in err
    assert "--" not in err


def test_a_byte_order_mark_is_no_part_of_the_first_line(
    run: Run, tiny: Path, seen: list[list[str]]
) -> None:
    run("chat", tiny, "-n", "1", stdin=b"\xef\xbb\xbfone\r\n")
    assert seen == [["one"]]


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
