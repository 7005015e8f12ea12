"""Bad benchmark data, templates, settings and results: one line, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from benchmark_data import record, write_json, write_milic, write_plain

Run = Callable[..., Any]
Change = Callable[[Path], object]


class Case(NamedTuple):
    """What is asked of data that were changed, and what is told."""

    told: str
    asked: str = "--tasks math"
    change: Change = lambda data: None
    code: int = 1


def file(name: str, content: str | bytes) -> Change:
    """Puts a file below the data."""

    def change(data: Path) -> None:
        (data / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def lacking(task: str, field: str, split: str = "test") -> Change:
    """Takes a field from the second item of a task."""

    def change(data: Path) -> None:
        entries = [record(task, "bo", n) for n in range(2)]
        at = entries[1]
        *outer, last = field.split(".")
        for name in outer:
            at = at[name]
        del at[last]
        write_json(data / task / "bo" / f"{split}.json", entries)

    return change


def holding(task: str, **fields: object) -> Change:
    """Gives the only item of a task other fields."""

    def change(data: Path) -> None:
        write_json(data / task / "bo" / "test.json", [{**record(task, "bo", 0), **fields}])

    return change


def cut(name: str) -> Change:
    """Takes the last line from a file."""

    def change(data: Path) -> None:
        lines = (data / name).read_bytes().splitlines(keepends=True)
        (data / name).write_bytes(b"".join(lines[:-1]))

    return change


def removed(name: str) -> Change:
    return lambda data: (data / name).unlink()


TEST, READING, TSV = "math/bo/test.json", "reading_comprehension", "classification/ug/test.tsv"
LINES = "translation/bo/test"
JSON = {
    "not_json": Case(
        r"test\.json is not JSON: .* in line 2, column 1", change=file(TEST, "[1,\n}")
    ),
    "empty_file": Case(r"test\.json is not JSON: .* in line 1", change=file(TEST, "")),
    "not_utf8": Case(r"test\.json is not UTF-8: byte 2 ", change=file(TEST, b'["\xff"]')),
    "nested": Case("is not JSON of a sensible kind", change=file(TEST, "[" * 100_000)),
    "huge_number": Case("is not JSON of a sensible kind", change=file(TEST, f"[{'9' * 10_000}]")),
    "an_object": Case("must be a list of objects, it is an object", change=file(TEST, "{}")),
    "null": Case("must be a list of objects, it is null", change=file(TEST, "null")),
    "a_list_of_texts": Case(
        r"test\.json, item 2 must be an object, it is a text", change=file(TEST, '[{}, "x"]')
    ),
    "no_items": Case(r"test\.json holds no items: there is nothing", change=file(TEST, "[]")),
    "no_file": Case(r"math/bo/test\.json is missing: .* holds train_1\.json", change=removed(TEST)),
    "no_exemplars": Case(r"train_1\.json is missing", change=removed("math/bo/train_1.json")),
    "few_exemplars": Case(
        "holds 6 exemplars, 7 are wanted: lower --shots", "--tasks math --shots 7"
    ),
    "pipe": Case(
        r"test\.json is not a regular file",
        change=lambda data: [(data / TEST).unlink(), os.mkfifo(data / TEST)],
    ),
    "folder_as_file": Case(
        r"test\.json is not a regular file",
        change=lambda data: [(data / TEST).unlink(), (data / TEST).mkdir()],
    ),
}
FIELDS = {
    f"{task}-{field}": Case(
        rf"{task}/bo/test\.json, item 2 lacks the field '{re.escape(field)}'$",
        f"--tasks {task}",
        lacking(task, field),
    )
    for task, fields in {
        "reading_comprehension": ("id", "context", "question", "options", "answer"),
        "response_selection": ("context", "options", "answer"),
        "text_classification": ("text", "label.en"),
        "title_generation_200": ("content", "title"),
        "translation_dialogue": ("en", "bo"),
        "math": ("question", "answer"),
    }.items()
    for field in fields
} | {
    "math-cot": Case(
        r"train_1\.json, item 2 lacks the field 'cot\.en'",
        change=lacking("math", "cot.en", "train_1"),
    )
}
VALUES = {
    "answer_not_a_letter": Case(
        r"item 1: the field 'answer' must be a letter from A to B, not 'C'",
        f"--tasks {READING}", holding(READING, answer="C"),
    ),
    "one_option": Case(
        "the field 'options' must be a list of 2 to 26 texts",
        f"--tasks {READING}", holding(READING, options=["x"]),
    ),
    "options_of_numbers": Case(
        r"the field 'options' must be a list of texts, not \[1, 2\]",
        f"--tasks {READING}", holding(READING, options=[1, 2]),
    ),
    "question_of_a_list": Case(
        r"the field 'question' must be a text that is not blank, not \['x'\]",
        f"--tasks {READING}", holding(READING, question=["x"]),
    ),
    "blank": Case(
        "the field 'content' must be a text that is not blank, not ' '",
        "--tasks title_generation_200", holding("title_generation_200", content=" "),
    ),
    "answer_not_a_number": Case(
        "the field 'answer' must be a number, not 'many'", change=holding("math", answer="many")
    ),
    "answer_true": Case(
        "the field 'answer' must be a text or a number, not True",
        change=holding("math", answer=True),
    ),
    "half_a_character": Case(
        "the field 'question' is not valid Unicode",
        change=file(TEST, '[{"id": 1, "question": "\\ud800", "answer": 1}]'),
    ),
    "half_a_character_as_id": Case(
        "the field 'id' is not valid Unicode",
        change=file(TEST, '[{"id": "\\ud800", "question": "x", "answer": 1}]'),
    ),
    "id_of_a_list": Case(
        "the field 'id' must be a text or a number", change=holding("math", id=["x"])
    ),
}  # fmt: skip
PLAIN = {
    "lines_that_do_not_pair": Case(
        r"test\.bo has 4 lines, test\.en has 3: line n", "--tasks translation", cut(f"{LINES}.en")
    ),
    "one_file": Case(
        r"must hold two files of aligned lines, test\.bo and .*: it holds bo",
        "--tasks translation", removed(f"{LINES}.en"),
    ),
    "three_files": Case(
        "must hold two files of aligned lines", "--tasks translation", file(f"{LINES}.zh", "书\n")
    ),
    "all_lines_blank": Case(
        r"test\.bo holds no items", "--tasks translation", file(f"{LINES}.bo", "\n \n\n\n")
    ),
    "lines_not_utf8": Case(
        r"test\.en is not UTF-8: byte 0", "--tasks translation", file(f"{LINES}.en", b"\xff\n" * 4)
    ),
    "no_header": Case(
        "the first line must name the columns, text and label",
        "--tasks classification", file(TSV, "كىتاب\tsport\n"),
    ),
    "empty_tsv": Case(
        "the first line must name the columns", "--tasks classification", file(TSV, "")
    ),
    "only_a_header": Case(
        r"test\.tsv holds no items", "--tasks classification", file(TSV, "text\tlabel\n")
    ),
    "a_column_more": Case(
        r"test\.tsv, line 2 has 3 columns, the first line has 2",
        "--tasks classification", file(TSV, "text\tlabel\na\tb\tc\n"),
    ),
    "a_blank_label": Case(
        r"test\.tsv, line 2: its text or its label is blank",
        "--tasks classification", file(TSV, "text\tlabel\na\t \n"),
    ),
}  # fmt: skip
FOLDERS = {
    "no_folder": Case("is no folder: --data names the one", "--tasks all --data @/missing"),
    "no_task": Case("holds no task: looked for folders", "--tasks all --data @/math"),
    "only_unread": Case(
        "holds no task: .*; folder 'vocabulary' is skipped: MiLiC-Eval's vocabulary task is not",
        "--tasks all --data @/reading_comprehension",
        lambda data: (data / "reading_comprehension/vocabulary").mkdir(),
    ),
    "no_exemplars_of_labels": Case(
        "holds 0 exemplars, 3 are wanted: lower --shots",
        "--tasks text_classification",
        lambda data: write_json(data / "text_classification/bo/train_1.json", []),
    ),
    "no_such_folder_of_a_task": Case(
        "has no task math: looked for the folder",
        change=lambda data: shutil.rmtree(data / "math"),
    ),
    "no_language": Case("has no language ug: .* it holds bo", "--tasks math --langs ug"),
    "nothing_in_a_language": Case("holds nothing in kk", "--tasks all --langs kk"),
    "a_language_without_a_name": Case(
        r"the prompts in 'en' have no name for the language 'xx': .*\[en\.languages\]",
        "--tasks math --langs xx",
        lambda data: shutil.copytree(data / "math/bo", data / "math/xx"),
    ),
}
TEMPLATES = {
    "unknown_field": ('[en.math]\nitem = "{colour}"', r"template en\.math\.item has an unknown"),
    "attribute": ('[en.math]\nitem = "{question.__class__}"', r"field \{question\.__class__\}"),
    "conversion": ('[en.math]\nitem = "{question!r}"', "without a format"),
    "brace": ('[en.math]\nitem = "{"', "template en.math.item: .*write {{ for a brace"),
    "unknown_key": ("[en.math]\nitme = 'x'", "unknown key itme; known: instruction"),
    "not_toml": ("[en", r"templates\.toml is not TOML"),
    "missing": (None, r"templates\.toml: No such file"),
}
USAGE = {
    "task": Case("no task is called 'maths': use all, or", "--tasks maths", code=2),
    "language_of_a_path": Case("'../x' is not the code", "--tasks math --langs ../x", code=2),
    "split": Case("split 'train' is neither test nor dev", "--split train", code=2),
    "shots": Case("shots is -1", "--shots -1", code=2),
    "limit": Case("limit is 0, it must be 1 or more", "--limit 0", code=2),
    "seed": Case("seed is -1", "--seed -1", code=2),
    "direction": Case("direction 'up' is none of both, into", "--direction up", code=2),
    "prompt_language": Case("no prompts are written in 'fr'", "--tasks math --prompt-language fr"),
    "exemplars": Case("exemplars 'best' are neither first nor", "--exemplars best", code=2),
    "max_chars": Case("max-chars is -1, it can't be negative", "--max-chars -1", code=2),
    "judge": Case("judge 'kind' is none of default, paper", "--judge kind", code=2),
    "unread": Case("task 'vocabulary': .* is not read here", "--tasks vocabulary", code=2),
    "host": Case("saf:auto chooses .* give --dev beside it", "--rule saf:auto", code=2),
    "dev": Case("--dev is for rules that choose on dev data", "--dev", code=2),
    "host_of_dev": Case(
        "can't be evaluated on them",
        "--tasks math --rule saf:auto --dev --split dev",
        lambda data: write_json(data / "math/bo/dev.json", [record("math", "bo", 0)]),
        2,
    ),
    "no_dev": Case(r"dev\.json is missing", "--tasks math --rule saf:auto --dev"),
    "weights": Case("weights: 'best' is neither auto nor", "--weights best", code=2),
    "rule": Case("rule: 'median' is not one of", "--rule median", code=2),
    "twice": Case("average is given twice", "--rule average --rule average", code=2),
}
CASES = {
    **JSON,
    **FIELDS,
    **VALUES,
    **PLAIN,
    **FOLDERS,
    **USAGE,
    **{
        f"template-{name}": Case(
            told,
            "--tasks math --templates @/templates.toml",
            (lambda data: None) if text is None else file("templates.toml", text),
        )
        for name, (text, told) in TEMPLATES.items()
    },
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data that are right, to be spoilt in a copy."""
    return write_plain(write_milic(tmp_path_factory.mktemp("good"), ("bo",), n_items=1))


@pytest.fixture
def spoilt(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "data")


def check(result: tuple[int, str, str], told: str, code: int = 1) -> None:
    found, out, err = result
    assert re.search(told, err.removesuffix("\n")), err
    assert (found, out) == (code, "")
    assert err.startswith("trimix-edge: ")
    assert err.count("\n") == 1, err


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    run: Run, tiny: Path, spoilt: Path, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    case.change(spoilt)
    out = tmp_path / "out"
    asked = case.asked.replace("@", str(spoilt)).split()
    result = run("evaluate", "--data", spoilt, "--trio", tiny, "--out", out, *asked)
    check(result, case.told, case.code)
    assert not out.exists()


def test_there_are_enough_kinds() -> None:
    assert len({(case.told, case.code) for case in CASES.values()}) > 60


@pytest.fixture
def finished(run: Run, tiny: Path, good: Path, tmp_path: Path) -> Path:
    """The results of a small run."""
    asked = ("--tasks", "math", "--shots", "0", "--rule", "average", "--threads", "1")
    out = tmp_path / "finished"
    assert run("evaluate", "--data", good, "--trio", tiny, "--out", out, *asked)[0] == 0
    return out


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_of_another_configuration_are_refused_unless_forced(
    run: Run, tiny: Path, good: Path, finished: Path
) -> None:
    before = files(finished)
    again = ("evaluate", "--data", good, "--trio", tiny, "--out", finished, "--tasks", "math",
             "--shots", "0", "--threads", "1")  # fmt: skip
    told = "holds results of another configuration: .* was .*, is .*; choose another --out, or"
    for other in (("--rule", "proxy"), ("--rule", "average", "--seed", "1"),
                  ("--rule", "average", "--prompt-language", "zh")):  # fmt: skip
        check(run(*again, *other), told)
        assert files(finished) == before
    code, _, err = run(*again, "--rule", "proxy", "--force")
    assert code == 0, err
    names = {path.parent.name for path in finished.rglob("*.jsonl")}
    assert names == {"proxy"}
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in report["systems"]] == ["proxy"]


def test_other_data_under_the_same_name_are_another_configuration(
    run: Run, tiny: Path, good: Path, spoilt: Path, finished: Path
) -> None:
    write_json(spoilt / TEST, [{**record("math", "bo", 0), "question": "རི"}])
    asked = ("--tasks", "math", "--shots", "0", "--rule", "average", "--threads", "1")
    result = run("evaluate", "--data", spoilt, "--trio", tiny, "--out", finished, *asked)
    check(result, "another configuration: cells.math.bo.data.*test.json was")


def test_a_folder_of_something_else_is_refused_even_if_forced(
    run: Run, tiny: Path, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter").write_text("dear")
    for force in ((), ("--force",)):
        result = run("evaluate", "--data", good, "--trio", tiny, "--tasks", "math", "--out",
                     tmp_path / "out", *force)  # fmt: skip
        check(result, "is no folder of results: choose another --out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["letter"]


def test_a_model_that_is_missing_is_told_before_anything_is_written(
    run: Run, good: Path, tmp_path: Path
) -> None:
    result = run("evaluate", "--data", good, "--tasks", "math", "--out", tmp_path / "out",
                 "--weights", "1,0", "--large-ins", tmp_path / "missing.gguf")  # fmt: skip
    check(result, r"missing\.gguf: no such file|missing\.gguf: No such file")
    assert not (tmp_path / "out").exists()


def drop_file(folder: Path) -> None:
    next(folder.rglob("*.jsonl")).unlink()


def drop_line(folder: Path) -> None:
    next(folder.rglob("*.jsonl")).write_bytes(b"")


def damage_line(folder: Path) -> None:
    path = next(folder.rglob("*.jsonl"))
    path.write_bytes(b"{}\n" + path.read_bytes())


def description(content: str) -> Change:
    return lambda folder: (folder / "run.json").write_text(content)


def without(*parts: str) -> Change:
    """Makes a part of the description null."""

    def change(folder: Path) -> None:
        content = at = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        for part in parts[:-1]:
            at = at[part]
        at[parts[-1]] = None
        if parts[-1] in ("trio", "n_ctx"):  # null may stand there, nothing may not
            del at[parts[-1]]
        write_json(folder / "run.json", content)

    return change


def holds(part: str, value: object) -> Change:
    """Gives the description of the cell another part."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        content["configuration"]["cells"]["math.bo"][part] = value
        write_json(folder / "run.json", content)

    return change


RESULTS: dict[str, tuple[str, Change]] = {
    "no_description": (
        "is no folder of results: it has no run.json", lambda f: (f / "run.json").unlink(),
    ),
    "description_not_json": (r"run\.json is damaged: it is not JSON", description("{")),
    "description_of_a_list": (r"run\.json is damaged: it is not an object", description("[]")),
    "description_without_parts": (r"run\.json is damaged: it lacks a part", description("{}")),
    "description_of_texts": (
        r"run\.json is damaged: it lacks a part",
        description('{"configuration": {"systems": "x", "cells": []}}'),
    ),
    **{
        f"description_without_{'_'.join(parts)}": (
            r"run\.json is damaged: it lacks a part", without(*parts),
        )
        for parts in (
            ("machine",), ("configuration", "trio"), ("configuration", "versions"),
            ("configuration", "models", "small_cpt"), ("configuration", "context", "n_ctx"),
            ("configuration", "cells", "math.bo", "data"),
            ("configuration", "cells", "math.bo", "shots"),
        )
    },
    **{
        f"description_of_{part}_{value}": (
            r"run\.json is damaged: it lacks a part", holds(part, value),
        )
        for part, value in (("cut", {"max_chars": 1}), ("cut", 3), ("exemplars", "balanced"))
    },
    "unfinished": ("is not finished: it has 0 of 1 predictions of math.bo; run its", drop_file),
    "cut": ("is not finished: it has 0 of 1 predictions of math.bo; run its", drop_line),
    "damaged": (r"jsonl, line 1 is damaged", damage_line),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("form", [(), ("--markdown",)], ids=["table", "markdown"])
def test_compare_tells_what_is_wrong_with_results(
    run: Run, finished: Path, tmp_path: Path, name: str, form: tuple[str, ...]
) -> None:
    told, spoil = RESULTS[name]
    other = shutil.copytree(finished, tmp_path / "other")
    spoil(other)
    check(run("compare", finished, other, *form), told)


def test_names_in_a_stranger_s_results_can_t_steer_the_terminal(
    run: Run, finished: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(finished, tmp_path / "other")
    content = json.loads((other / "run.json").read_text(encoding="utf-8"))
    name = "[red]\x1b[2J\nav|erage"
    content["configuration"]["systems"].append({"name": name, "rule": name})
    write_json(other / "run.json", content)
    shutil.copytree(
        other / "predictions" / "average", other / "predictions" / name, dirs_exist_ok=True
    )
    for form in ((), ("--markdown",)):
        code, out, err = run("compare", finished, other, *form)
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert re.search(r"other: \[red\]\[2J av\\?\|erage", out)


def test_results_that_are_no_folder_are_told(
    run: Run, tiny: Path, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    asked = ("evaluate", "--data", good, "--trio", tiny, "--tasks", "math", "--out")
    check(run(*asked, tmp_path / "file"), "file is no folder of results: choose another --out")
    check(run(*asked, tmp_path / "file" / "out"), "out can't be used: Not a directory")


def test_compare_wants_two_different_runs(run: Run, finished: Path) -> None:
    check(run("compare", finished), "name two runs or more", 2)
    check(run("compare", finished, finished), "a folder is named twice", 2)
    check(run("compare", finished, finished / "missing"), "is no folder of results")


def test_compare_refuses_other_items_under_the_same_name(
    run: Run, tiny: Path, spoilt: Path, finished: Path, tmp_path: Path
) -> None:
    write_json(spoilt / TEST, [{**record("math", "bo", 0), "answer": 7}])
    out = tmp_path / "other"
    asked = ("--tasks", "math", "--shots", "0", "--rule", "average", "--threads", "1")
    assert run("evaluate", "--data", spoilt, "--trio", tiny, "--out", out, *asked)[0] == 0
    check(run("compare", finished, out), "compare runs of the same data, split and limit")


def test_compare_refuses_runs_that_share_nothing(
    run: Run, tiny: Path, good: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    asked = ("--tasks", "response_selection", "--shots", "0", "--rule", "average", "--threads", "1")
    assert run("evaluate", "--data", good, "--trio", tiny, "--out", out, *asked)[0] == 0
    check(run("compare", finished, out), "no task and language in common")
