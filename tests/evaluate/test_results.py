"""A folder of results: resumed after any byte, never mixed with another configuration's."""

from __future__ import annotations

import json
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimix_edge.config import Role
from trimix_edge.errors import EvaluationError, TargetError
from trimix_edge.evaluate.plan import model_hashes
from trimix_edge.evaluate.results import (
    RUN,
    Log,
    Prediction,
    ResultsFolder,
    difference,
    read_predictions,
)
from trimix_edge.trios.manifest import TrioManifest

IDS = ["༡", "b\n2", "3", "4"]
CONFIGURATION = {"seed": 0, "cells": {"math.bo": {"n_items": 4, "data": {"x": "ཀ" * 80}}}}


def prediction(id_: str) -> Prediction:
    return Prediction(
        id=id_,
        shots=2,
        n_prompt=10,
        n_tokens=3,
        output=f"བོད་\n{id_}\u2028",
        reference="དེབ",
        n_options=0,
        weights=[0.1, 0.9, 0.0],
        finish_reason="stop",
        seconds={"prompt": 0.5, "generation": 0.25},
    )


WHOLE = b"".join(prediction(id_).line() for id_ in IDS)


def resume(path: Path) -> int:
    """Go on with a log to its end; how many predictions it held."""
    with Log(path, IDS) as log:
        held = len(log.predictions)
        for id_ in IDS[held:]:
            log.append(prediction(id_))
    return held


@settings(deadline=None)
@given(st.integers(0, len(WHOLE)))
def test_a_file_torn_at_any_byte_ends_as_one_that_was_not(at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "system" / "cell.jsonl"
        path.parent.mkdir()
        path.write_bytes(WHOLE[:at])
        assert resume(path) == WHOLE[:at].count(b"}\n")
        assert path.read_bytes() == WHOLE


@settings(deadline=None)
@given(st.integers(0, len(WHOLE)), st.binary(min_size=1, max_size=20))
def test_what_a_power_cut_leaves_after_the_last_line_is_done_again(at: int, rest: bytes) -> None:
    kept = WHOLE[: WHOLE[:at].rfind(b"\n") + 1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cell.jsonl"
        path.write_bytes(kept + rest.replace(b"\n", b"\0"))
        resume(path)
        assert path.read_bytes() == WHOLE


def test_a_last_line_of_zeros_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "cell.jsonl"
    lines = WHOLE.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + b"\0" * 50 + b"\n")
    assert resume(path) == 2
    assert path.read_bytes() == WHOLE


def test_a_line_is_written_when_it_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "cell.jsonl"
    with Log(path, IDS) as log:
        for n, id_ in enumerate(IDS, 1):
            log.append(prediction(id_))
            assert len(read_predictions(path)[0]) == n


def test_a_line_is_read_as_it_was_written() -> None:
    assert [Prediction.parse(line) for line in WHOLE.split(b"\n")[:-1]] == [
        prediction(id_) for id_ in IDS
    ]


def test_what_a_run_did_not_keep_is_not_in_its_lines_and_may_be_there() -> None:
    plain = prediction("1")
    told = replace(plain, n_evaluated=4, prompt="ཀ\n|")
    assert not {"n_evaluated", "prompt"} & json.loads(plain.line()).keys()
    assert Prediction.parse(told.line()) == told


DAMAGE = {
    "not_json": b"{",
    "not_utf8": b'{"id": "\xff"}',
    "a_list": b"[]",
    "a_field_less": b'{"id": "1"}',
    "zeros": b"\0\0\0",
    "blank": b"",
    "nested": b"[" * 100_000,
    "a_number_as_text": WHOLE.split(b"\n")[1].replace(b'"shots": 2', b'"shots": "2"'),
    "no_seconds": WHOLE.split(b"\n")[1].replace(b'"seconds": {', b'"seconds": [1], "x": {'),
    "seconds_of_text": WHOLE.split(b"\n")[1].replace(b"0.25}", b'"0.25"}'),
    "evaluated_of_text": WHOLE.split(b"\n")[1].replace(b"{", b'{"n_evaluated": "4", ', 1),
    "a_field_more": WHOLE.split(b"\n")[1].replace(b"{", b'{"colour": "4", ', 1),
    "weights_of_text": WHOLE.split(b"\n")[1].replace(b"[0.1, 0.9, 0.0]", b'"auto"'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_line_in_the_middle_is_told_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "cell.jsonl"
    lines = WHOLE.split(b"\n")
    lines[1] = DAMAGE[name]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(EvaluationError, match=r"cell\.jsonl, line 2 is damaged: .*--force$"):
        Log(path, IDS)
    assert path.read_bytes() == b"\n".join(lines)


def test_predictions_for_other_items_are_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "cell.jsonl"
    path.write_bytes(WHOLE)
    for ids in (IDS[:3], ["0", *IDS[1:]], IDS[::-1]):
        with pytest.raises(EvaluationError, match="for other items"):
            Log(path, ids)
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize(("room", "told"), [(10, "the disk is full"), (0, "File too large")])
def test_a_disk_that_takes_no_more_is_told(tmp_path: Path, room: int, told: str) -> None:
    path = tmp_path / "cell.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Log(path, IDS) as log:
        log.append(prediction(IDS[0]))
        held = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (held + room, limits[1]))
        try:
            with pytest.raises(TargetError, match=told):
                log.append(prediction(IDS[1]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(log.predictions) == 1
    assert resume(path) == 1
    assert path.read_bytes() == WHOLE


def folder(path: Path, force: bool = False, **changes: object) -> ResultsFolder:
    made = ResultsFolder(path, {**CONFIGURATION, **changes}, force=force)
    made.describe({"threads": 1})
    return made


def test_the_same_configuration_goes_on(tmp_path: Path) -> None:
    first = folder(tmp_path / "out")
    with first.log("0.1,0.9", "math.bo", IDS) as log:
        log.append(prediction(IDS[0]))
    with folder(tmp_path / "out").log("0.1,0.9", "math.bo", IDS) as log:
        assert len(log.predictions) == 1


def test_another_configuration_is_refused_with_what_differs_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folder(out).log("0.1,0.9", "math.bo", IDS) as log:
        log.append(prediction(IDS[0]))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(EvaluationError, match=r"configuration: seed was 0, is 1; .*--force$"):
        folder(out, seed=1)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    with folder(out, force=True, seed=1).log("0.1,0.9", "math.bo", IDS) as log:
        assert log.predictions == []
    assert json.loads((out / RUN).read_text(encoding="utf-8"))["configuration"]["seed"] == 1


def test_a_folder_of_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(EvaluationError, match="is no folder of results: choose another --out"):
            folder(tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("content", "told"), [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"[]", "not an")]
)
def test_a_damaged_description_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / RUN).write_bytes(content)
    with pytest.raises(EvaluationError, match=rf"run\.json is damaged: it is {told}"):
        folder(tmp_path)
    folder(tmp_path, force=True)


def test_scratch_of_a_killed_run_is_swept(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / ".run.json.abc.part").write_text("{")
    folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RUN]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="can't be used: Not a directory"):
        folder(tmp_path / "file" / "out")


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "cell.jsonl"
    with Log(path, IDS) as log:
        log.append(prediction(IDS[0]))
        with pytest.raises(EvaluationError, match="is being written by another evaluation: wait"):
            Log(path, IDS)
        log.append(prediction(IDS[1]))
    assert resume(path) == 2
    assert path.read_bytes() == WHOLE


def test_a_log_that_is_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"tmp.*: Is a directory"):
        Log(tmp_path, IDS)
    with pytest.raises(EvaluationError, match=r"tmp.*: Is a directory"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    ("held", "wanted", "told"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b was 1, is 2"),
        ({"a": 1}, {"a": 1, "b": 2}, "b was null, is 2"),
        ({"a": 1, "b": 2}, {"a": 1}, "b was 2, is null"),
        ({"a": [1, 2]}, {"a": (1, 2)}, ""),
        (None, {"a": 1}, ' was null, is {"a": 1}'),
        ({"a": "x" * 100}, {"a": 1}, f'a was "{"x" * 56}..., is 1'),
    ],
)
def test_what_differs_is_named(held: object, wanted: object, told: str) -> None:
    assert difference(held, wanted) == told


def test_models_that_differ_in_a_later_part_are_other_models(tmp_path: Path) -> None:
    found = []
    for name, second in (("a", b"weights"), ("b", b"WEIGHTS")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "m-00001-of-00002.gguf").write_bytes(b"head")
        (folder / "m-00002-of-00002.gguf").write_bytes(second)
        first = folder / "m-00001-of-00002.gguf"
        manifest = TrioManifest(name="t", models={Role.LARGE_INS: first})
        found.append(model_hashes(manifest, {Role.LARGE_INS})["large_ins"]["sha256"])
    assert found[0] != found[1]
