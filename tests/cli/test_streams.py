"""Streams, texts and arguments as the system hands them over: closed, piped, in any locale."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimix_edge.cli import console
from trimix_edge.cli.console import Bar
from trimix_edge.config import Role
from trimix_edge.errors import notice

Run = Callable[..., Any]
PROGRAM = "from trimix_edge.cli import main; main()"


def shell(
    arguments: str, *, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command line under a shell, which closes streams as it is told."""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} {arguments}"
    return subprocess.run(
        ["sh", "-c", command], input=stdin, capture_output=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("generate - <&-", 1, "standard input is closed"),
        ("chat <&-", 1, "standard input is closed"),
        ("score - <&-", 1, "standard input is closed"),
        ("presets >&-", 1, "standard output is closed"),
        ("presets --json <&- >&-", 1, "standard output is closed"),
        ("presets <&-", 0, ""),
        ("presets </dev/null 2>&-", 0, ""),
        ("presets >&- 2>&-", 1, ""),
    ],
)
def test_a_closed_stream_is_told_in_one_line(arguments: str, code: int, told: str) -> None:
    done = shell(arguments)
    assert done.returncode == code
    assert done.stderr.count(b"\n") == bool(told)
    assert told in done.stderr.decode()
    assert bool(done.stdout) == (code == 0)


def test_no_file_gets_the_place_of_a_closed_stream(tiny: Path, tmp_path: Path) -> None:
    """With descriptors 0 and 2 closed, the models' files would get them."""
    done = shell(f"generate {tiny} hi <&- 2>&-")
    assert done.returncode == 0
    assert done.stdout == shell(f"generate {tiny} hi").stdout != b""


@pytest.mark.parametrize("how", ["file", "stdin"])
@pytest.mark.parametrize(
    "data",
    [
        b"save\nthe file",
        b"save\nthe file\n",
        b"save\r\nthe file\r\n",
        b"\xef\xbb\xbfsave\nthe file",
    ],
)
def test_a_prompt_is_the_same_however_it_comes(
    run: Run, tiny: Path, tmp_path: Path, how: str, data: bytes
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(data)
    options = ("--no-chat", "--json")
    if how == "file":
        result = run("generate", tiny, "--file", path, *options)
    else:
        result = run("generate", tiny, "-", *options, stdin=data)
    told = json.loads(result.out)
    expected = json.loads(run("generate", tiny, "save\nthe file", *options).out)
    assert told["prompt_token_ids"] == expected["prompt_token_ids"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_scored_texts_follow_the_same_rule(
    run: Run, tiny: Path, tmp_path: Path, mark: bytes
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b" save the file")
    expected = json.loads(run("score", tiny, path, "--json").out)["token_ids"]
    path.write_bytes(mark + b" save the file\r\n")
    assert json.loads(run("score", tiny, path, "--json").out)["token_ids"] == expected
    data = path.read_bytes()
    assert json.loads(run("score", tiny, "-", "--json", stdin=data).out)["token_ids"] == expected


@pytest.mark.parametrize("verb", ["generate", "score"])
def test_the_rule_for_texts_is_told(run: Run, verb: str) -> None:
    shown = " ".join(run(verb, "--help").out.replace("│", " ").split())
    assert "one line end after the last line is left out" in shown.lower()


def test_arguments_are_utf8_whatever_the_locale(tiny: Path, tmp_path: Path) -> None:
    """Texts and names of files; Python decodes them with the locale's encoding."""
    path = tmp_path / "བོད.txt"
    path.write_text("བོད་ཡིག", encoding="utf-8")
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    expected = shell(f"generate {tiny} --json 'བོད་ཡིག'")
    for arguments in (f"generate {tiny} --json 'བོད་ཡིག'", f"generate {tiny} --json -f '{path}'"):
        done = shell(arguments, **ascii)
        assert done.returncode == 0, done.stderr
        told, wanted = json.loads(done.stdout), json.loads(expected.stdout)
        assert told["prompt_token_ids"] == wanted["prompt_token_ids"]


def test_a_notice_is_one_line_and_shown_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def presets() -> dict[str, object]:
        notice("a\x1b[2J\nb")
        notice("a\x1b[2J\nb")
        notice("c")
        warnings.warn("another kind", DeprecationWarning, stacklevel=1)
        return {}

    monkeypatch.setattr("trimix_edge.hub.presets", presets)
    assert run("presets")[2].startswith("trimix-edge: a [2J b\ntrimix-edge: c\n")


def test_long_work_without_a_terminal_says_a_line_a_minute(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console, "monotonic", lambda: now)
    with Bar() as bar:
        for second in range(0, 200, 10):
            now = second
            bar.loading(Role.LARGE_INS, second / 200)
    assert capfd.readouterr().err == (
        "trimix-edge: loading large_ins: 30%\ntrimix-edge: loading large_ins: 60%\n"
        "trimix-edge: loading large_ins: 90%\n"
    )
