"""llama.cpp's log: silent, unless asked for, and its last word is in the exception."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import GREEDY_TRIO

from trimix_edge import Role, TriMix
from trimix_edge.errors import ModelLoadError
from trimix_edge.llama import LlamaModel
from trimix_edge.llama.backend import _LogSink, reason


def test_nothing_is_printed(tiny: dict[Role, Path], capfd: pytest.CaptureFixture[str]) -> None:
    with TriMix.load(GREEDY_TRIO, models=tiny) as trimix:
        trimix.generate(" save", max_tokens=3)
    assert capfd.readouterr() == ("", "")


def test_an_error_is_raised_and_not_printed(tiny: dict[Role, Path], tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(tiny[Role.SMALL_CPT].read_bytes()[:-1000])
    program = (
        "import sys; from pathlib import Path; from trimix_edge.llama import LlamaModel\n"
        "from trimix_edge.errors import ModelLoadError\n"
        "try: LlamaModel(Path(sys.argv[1]))\n"
        "except ModelLoadError: print('raised')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(truncated)], capture_output=True)
    assert (done.stdout, done.stderr) == (b"raised\n", b"")


def test_the_log_reaches_logging_line_by_line(
    tiny: dict[Role, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="trimix_edge.llama"):
        LlamaModel(tiny[Role.SMALL_CPT]).close()
    lines = [record.getMessage() for record in caplog.records]
    assert any("general.architecture" in line for line in lines)
    assert all(line and "\n" not in line for line in lines)
    assert {record.name for record in caplog.records} == {"trimix_edge.llama"}


def test_the_callback_survives_garbage_collection(tiny: dict[Role, Path]) -> None:
    for _ in range(3):
        gc.collect()
        LlamaModel(tiny[Role.SMALL_BASE], vocab_only=True).close()


def test_the_reason_is_in_the_exception(tiny: dict[Role, Path], tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(tiny[Role.SMALL_CPT].read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match=r"truncated\.gguf.*is truncated"):
        LlamaModel(truncated)


def test_pieces_of_a_line_are_joined(caplog: pytest.LogCaptureFixture) -> None:
    sink = _LogSink()
    with caplog.at_level(logging.DEBUG, logger="trimix_edge.llama"):
        sink.write(2, "loading ")
        sink.write(5, "...")
        sink.write(5, " done\n")
        sink.write(4, "f: it failed\n")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "loading ... done"),
        ("ERROR", "f: it failed"),
    ]
    assert sink.errors == ["f: it failed"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], ""),
        (["load: invalid magic"], "invalid magic"),
        (
            ["f: error loading model: missing tensor x.", "g: failed to load model"],
            "missing tensor x",
        ),
        (["f: something else"], "f: something else"),
    ],
)
def test_the_first_error_is_the_cause(lines: list[str], told: str) -> None:
    assert reason(lines) == told
