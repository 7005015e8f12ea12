"""evaluate and compare, from the command line to the files that they leave."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import MILIC, WORDS, write_milic

from trimix_edge import TriMix, values
from trimix_edge.config import ContextParams, Draft, Role

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]
Evaluate = Callable[..., dict[str, Any]]

FAST = ("--threads", "1", "--ctx", "512")


@pytest.fixture
def evaluate(run: Run, tiny: Path, data: Path, tmp_path: Path) -> Evaluate:
    """Evaluates the tiny trio into the folder ``out``; returns the printed report."""

    def evaluate(*arguments: str | Path, out: str = "out", said: bool = False) -> dict[str, Any]:
        code, printed, err = run(
            "evaluate", "--data", data, "--trio", tiny, "--out", tmp_path / out, *FAST, "--json",
            *arguments,
        )  # fmt: skip
        assert code == 0, err
        first, *notes = err.splitlines()
        assert first == f"results: {tmp_path / out}"
        assert said == bool(notes), notes
        return {**json.loads(printed), "notes": notes}

    return evaluate


def predictions(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What was predicted, by file, without the seconds that it took."""
    found = {}
    for path in sorted(folder.rglob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        for line in lines:
            del line["seconds"]
        found[path.relative_to(folder).as_posix()] = lines
    return found


def test_every_task_and_language_becomes_a_row(
    evaluate: Evaluate, data: Path, tmp_path: Path
) -> None:
    report = evaluate(
        "--shots", "1", "--limit", "1", "--seed", "2", "--rule", "single:small_base", said=True
    )  # fmt: skip
    assert all("a label has" in note for note in report["notes"])
    names = [cell["cell"] for cell in report["cells"]]
    expected = [f"{task}.{code}" for task in MILIC for code in sorted(WORDS)]
    at = next(n for n, name in enumerate(expected) if name.startswith("translation"))
    both = [pair for code in sorted(WORDS) for pair in (f"en-{code}", f"{code}-en")]
    expected[at : at + len(WORDS)] = [f"translation_dialogue.{pair}" for pair in both]
    expected += ["translation.en-bo", "translation.bo-en", "classification.ug"]
    assert names == expected
    assert {cell["n_items"] for cell in report["cells"]} == {1}
    assert report["average"]["n_cells"] == len(names)
    metrics = {cell["cell"].split(".")[0]: cell["metric"] for cell in report["cells"]}
    assert metrics["math"] == metrics["text_classification"] == "accuracy"
    assert metrics["title_generation_200"] == "ROUGE-L"
    assert metrics["translation_dialogue"] == metrics["translation"] == "chrF++"
    assert len(predictions(tmp_path / "out")) == len(names)


def test_the_report_says_all_that_it_takes_to_repeat_it(
    evaluate: Evaluate, data: Path, tiny: Path, tmp_path: Path
) -> None:
    report = evaluate("--tasks", "math", "--langs", "bo", "--shots", "1")
    written = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert written == {k: v for k, v in report.items() if k != "notes"}
    (run,) = report["runs"]
    configuration = run["configuration"]
    assert configuration["models"].keys() == {"large_ins", "small_cpt", "small_base"}
    assert configuration["versions"].keys() == {"trimix-edge", "llama-cpp-python"}
    assert report["metric_versions"].keys() == {"sacrebleu", "rouge-score"}
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for model in configuration["models"].values():
        assert model["file"] in text
        assert model["sha256"] in text
    for name, digest in configuration["cells"]["math.bo"]["data"].items():
        assert (data / name).is_file()
        assert f"{name}: SHA-256 `{digest}`" in text
    assert "large_ins 0.5, small_cpt 0.8, small_base -0.3" in text
    speed = report["cells"][0]["speed"][0]
    assert all(
        speed[name] > 0
        for name in ("seconds", "tokens_per_second", "characters_per_second")
    )  # fmt: skip


@pytest.mark.parametrize("system", ["--weights=0.5,0.8", "--weights=auto", "--rule=saf:small_cpt"])
def test_a_prediction_is_what_the_library_generates(
    evaluate: Evaluate, tiny: Path, tmp_path: Path, system: str
) -> None:
    report = evaluate("--tasks", "title_generation_200", "--langs", "ug", "--shots", "0", system)
    first = report["runs"][0]["configuration"]["cells"]["title_generation_200.ug"]["first_prompt"]
    (lines,) = predictions(tmp_path / "out").values()
    option, value = system.removeprefix("--").split("=")
    chosen: dict[str, Any] = (
        {"rule": values.rule(value)} if option == "rule" else {"weights": values.weights(value)}
    )
    context = ContextParams(n_ctx=512, kv_type="f32", n_threads=1)
    with TriMix.load(tiny, context=context) as trimix:
        expected = trimix.generate(
            first, chat=False, max_tokens=250, stop=["\n"], draft=Draft(0), **chosen
        )
    assert expected.text
    assert lines[0]["output"] == expected.text
    assert lines[0]["n_prompt"] == len(expected.prompt_token_ids)
    assert lines[0]["n_tokens"] == len(expected.token_ids)
    assert lines[0]["finish_reason"] == expected.finish_reason
    if expected.weights is None:
        assert lines[0]["weights"] is None
    else:
        assert lines[0]["weights"] == pytest.approx([expected.weights.of(role) for role in Role])


def test_several_weights_and_rules_are_compared_with_the_first(
    evaluate: Evaluate, run: Run, tmp_path: Path
) -> None:
    asked = ("--tasks", "text_classification", "--langs", "kk", "--shots", "1")
    systems = (
        "--weights", "0.1,0.9", "--weights", "auto", "--rule", "average", "--rule",
        "saf:small_cpt", "--rule", "single:large_ins", "--rule", "proxy",
    )  # fmt: skip
    report = evaluate(*asked, *systems, said=True)
    names = [system["name"] for system in report["systems"]]
    assert names == ["0.1,0.9", "auto", "average", "saf:small_cpt", "single:large_ins", "proxy"]
    (cell,) = report["cells"]
    assert len(cell["scores"]) == 6
    assert len(cell["less_first"]) == 5
    assert all(0 < tested["p"] <= 1 for tested in cell["less_first"])
    weights = [counts["mean_weights"] for counts in cell["counts"]]
    assert weights[0] == pytest.approx([0.1, 0.9, 0])
    assert weights[2] == pytest.approx([0.5, 0.5, 0])
    assert weights[3] is None
    assert weights[4] == pytest.approx([1, 0, 0])
    assert weights[5] == pytest.approx([1, 1, -1])
    grid = {0.1, 0.3, 0.5, 0.7, 0.9, 1.0}
    for line in predictions(tmp_path / "out")["predictions/auto/text_classification.kk.jsonl"]:
        assert set(line["weights"][:2]) <= grid
    alone = evaluate(*asked, "--rule", "average", out="alone", said=True)
    assert alone["cells"][0]["scores"][0]["value"] == cell["scores"][2]["value"]
    found, lonely = predictions(tmp_path / "out"), predictions(tmp_path / "alone")
    assert found["predictions/average/text_classification.kk.jsonl"] == next(iter(lonely.values()))


def test_weights_that_leave_a_model_out_need_no_file_for_it(
    run: Run, tiny: Path, data: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "evaluate", "--data", data, "--tasks", "math", "--langs", "bo", "--limit", "1", "--shots",
        "0", "--weights", "0.1,0.9", "--large-ins", tiny / "large_ins.gguf", "--small-cpt",
        tiny / "small_cpt.gguf", "--out", tmp_path / "out", "--json", *FAST,
    )  # fmt: skip
    assert code == 0, err
    models = json.loads(out)["runs"][0]["configuration"]["models"]
    assert models.keys() == {"large_ins", "small_cpt"}


def test_a_limit_takes_the_first_items(evaluate: Evaluate, tmp_path: Path) -> None:
    asked = ("--tasks", "math", "--langs", "bo", "--shots", "0")
    evaluate(*asked, "--limit", "2")
    evaluate(*asked, out="all")
    (few,), (all_,) = (predictions(tmp_path / name).values() for name in ("out", "all"))
    assert (len(few), len(all_)) == (2, 3)
    assert few == all_[:2]


def test_exemplars_that_do_not_fit_are_left_out_said_once_and_counted(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    report = evaluate(
        "--tasks", "response_selection", "--langs", "bo", "--shots", "5", "--ctx", "256", said=True
    )  # fmt: skip
    (note,) = report["notes"]
    assert note.startswith("note: not all prompts fit into 256 tokens with their exemplars: fewer")
    counts = report["cells"][0]["counts"][0]
    (lines,) = predictions(tmp_path / "out").values()
    assert counts["fewer_exemplars"] == len(lines) == 3
    assert all(0 < line["shots"] < 5 and line["n_prompt"] <= 254 for line in lines)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "response_selection.bo, 0.5,0.8: 3 of 3 prompts had room for fewer exemplars" in text


def test_an_item_that_does_not_fit_counts_as_wrong_and_is_said_once(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    report = evaluate("--tasks", "math", "--langs", "bo", "--shots", "0", "--ctx", "32", said=True)
    (note,) = report["notes"]
    assert note == (
        "note: some items of math.bo do not fit into 32 tokens, even without exemplars: they count "
        "as wrong; raise --ctx"
    )
    cell = report["cells"][0]
    assert cell["counts"][0]["too_long"] == 3
    assert cell["scores"][0] == {"value": 0, "low": 0, "high": 0}
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "3 of 3 prompts do not fit: counted as wrong" in text


def test_a_label_that_is_longer_than_the_benchmark_allows_has_room(evaluate: Evaluate) -> None:
    report = evaluate(
        "--tasks", "text_classification", "--langs", "bo", "--shots", "0",
        "--prompt-language", "zh", said=True,
    )  # fmt: skip
    (note,) = report["notes"]
    assert "text_classification.bo: a label has 6 tokens, so answers may have as many" in note


def test_the_same_command_again_runs_no_model(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--tasks", "math", "--langs", "bo", "--shots", "0")
    out = "folder-" * 20  # its name is printed in one line however long it is
    first = evaluate(*asked, out=out)

    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("trimix_edge.trimix.TriMix.load", load)
    assert evaluate(*asked, out=out) == first


def test_a_folder_is_found_again_by_what_was_asked(
    run: Run, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("evaluate", "--data", data, "--trio", tiny, "--tasks", "math", "--langs", "bo",
             "--shots", "0", "--limit", "1", *FAST)  # fmt: skip
    for seed in ("0", "0", "1"):
        assert run(*asked, "--seed", seed)[0] == 0
    names = [path.name for path in (tmp_path / "evaluations").iterdir()]
    assert len(names) == 2
    assert all(name.startswith("tiny-") for name in names)


def test_the_table_on_the_terminal_has_a_row_for_each_system(
    run: Run, tiny: Path, data: Path, tmp_path: Path
) -> None:
    code, out, _ = run(
        "evaluate", "--data", data, "--trio", tiny, "--tasks", "math", "--langs", "bo,ug",
        "--shots", "0", "--limit", "2", "--rule", "proxy", "--rule", "average", "--out",
        tmp_path / "out", *FAST,
    )  # fmt: skip
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split()[:5] == ["task", "metric", "items", "system", "score"]
    assert [row.split()[0] for row in rows[::2]] == ["math.bo", "math.ug", "average"]
    assert len(rows) == 6
    assert rows[0].split()[:4] == ["math.bo", "accuracy", "2", "proxy"]


KILLABLE = ("--tasks", "title_generation_200,math", "--langs", "mn", "--shots", "0",
            "--rule", "average", "--rule", "saf")  # fmt: skip


def test_a_run_that_was_killed_or_interrupted_ends_as_one_that_was_not(
    start: Start, run: Run, tiny: Path, tmp_path: Path
) -> None:
    data = write_milic(tmp_path / "data", ("mn",), ("title_generation_200", "math"), n_items=12)

    def command(out: str) -> list[str | Path]:
        return ["evaluate", "--data", data, "--trio", tiny, "--out", tmp_path / out,
                *KILLABLE, *FAST]  # fmt: skip

    def n_bytes(out: str) -> int:
        return sum(path.stat().st_size for path in (tmp_path / out).rglob("*.jsonl"))

    assert run(*command("whole"))[0] == 0
    expected = predictions(tmp_path / "whole")
    assert [len(lines) for lines in expected.values()] == [12] * 4
    for part, how in ((0.1, signal.SIGKILL), (0.6, signal.SIGINT)):
        killed = start(*command("killed"))
        while n_bytes("killed") < part * n_bytes("whole"):
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.001)
        killed.send_signal(how)
        out, err = killed.communicate()
        assert killed.returncode == (-how if how is signal.SIGKILL else 130)
        assert (out, err.decode()) == (b"", f"results: {tmp_path / 'killed'}\n")
        assert n_bytes("killed") < n_bytes("whole")
    assert not (tmp_path / "killed" / "report.json").exists()
    assert run(*command("killed"))[0] == 0
    assert predictions(tmp_path / "killed") == expected

    def report(out: str) -> dict[str, Any]:
        found = json.loads((tmp_path / out / "report.json").read_text(encoding="utf-8"))
        for cell in found["cells"]:
            del cell["speed"]
        return dict(found)

    assert report("killed") == report("whole")


def test_runs_are_put_side_by_side(evaluate: Evaluate, run: Run, tmp_path: Path) -> None:
    asked = ("--tasks", "math,response_selection", "--langs", "bo", "--shots", "0")
    evaluate(*asked, "--rule", "average", out="one")
    evaluate(*asked, "--rule", "proxy", "--rule", "saf", out="two")
    evaluate("--tasks", "math", "--langs", "bo", "--shots", "0", "--weights", "auto", out="three")
    folders = [tmp_path / name for name in ("one", "two", "three")]
    code, out, err = run("compare", *folders, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    names = [system["name"] for system in report["systems"]]
    assert names == ["one", "two: proxy", "two: saf:large_ins", "three"]
    assert [cell["cell"] for cell in report["cells"]] == ["math.bo"]
    assert report["left_out"] == ["response_selection.bo"]
    assert len(report["runs"]) == 3
    code, out, _ = run("compare", *folders, "--markdown")
    assert code == 0
    assert "## Differences to one" in out
    assert "left out: response_selection.bo" in out
    assert "## Run 3" in out
    code, out, _ = run("compare", *folders)
    assert code == 0
    assert "two: saf:large_ins" in out


def test_a_run_differs_from_a_copy_of_itself_with_p_of_one(
    evaluate: Evaluate, run: Run, tmp_path: Path
) -> None:
    asked = ("--tasks", "translation", "--langs", "bo", "--shots", "1", "--rule", "average")
    evaluate(*asked, out="one")
    evaluate(*asked, out="two")
    code, out, _ = run("compare", tmp_path / "one", tmp_path / "two", "--json")
    assert code == 0
    report = json.loads(out)
    for cell in (*report["cells"], report["average"]):
        assert cell["less_first"] == [{"value": 0, "low": 0, "high": 0, "p": 1}]


def test_the_embedded_trio_translates_line_aligned_texts(run: Run, tmp_path: Path) -> None:
    pair = tmp_path / "data" / "translation" / "dz"
    pair.mkdir(parents=True)
    (pair / "test.en").write_text("Save the file.\nOpen\n", encoding="utf-8")
    (pair / "test.dz").write_text("ཡིག་སྣོད་སྲུངས།\nཁ་ཕྱེ།\n", encoding="utf-8")
    code, out, err = run(
        "evaluate", "--data", tmp_path / "data", "--direction", "into", "--shots", "0", "--out",
        tmp_path / "out", "--threads", "1", "--trio", "dzongkha", "--json",
    )  # fmt: skip
    assert code == 0, err
    (cell,) = json.loads(out)["cells"]
    assert cell["cell"] == "translation.en-dz"
    (lines,) = predictions(tmp_path / "out").values()
    assert all("\u0f00" <= line["output"].strip()[0] <= "\u0fff" for line in lines)
