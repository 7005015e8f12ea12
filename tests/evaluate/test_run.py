"""evaluate and compare, from the command line to the files that they leave."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import MILIC, WORDS, record, write_json, write_milic

from trimix_edge import TriMix, values
from trimix_edge.config import ContextParams, Draft, Role
from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate.report import read_run

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
        "--tasks", "response_selection", "--langs", "bo", "--shots", "5", "--ctx", "384", said=True
    )  # fmt: skip
    (note,) = report["notes"]
    assert note.startswith("note: not all prompts fit into 384 tokens with their exemplars: fewer")
    counts = report["cells"][0]["counts"][0]
    (lines,) = predictions(tmp_path / "out").values()
    assert counts["fewer_exemplars"] == len(lines) == 3
    assert all(0 < line["shots"] < 5 and line["n_prompt"] <= 382 for line in lines)
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
    assert names == ["one", "two: proxy", "two: saf:small_cpt", "three"]
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
    assert "two: saf:small_cpt" in out


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


def write_dev(data: Path, tasks: tuple[str, ...]) -> None:
    """Three items of dev data of a task in Tibetan."""
    for task in tasks:
        write_json(data / task / "bo" / "dev.json", [record(task, "bo", n) for n in range(5, 8)])


def test_the_host_of_saf_is_the_one_that_does_better_on_dev(
    evaluate: Evaluate, data: Path, tmp_path: Path
) -> None:
    tasks = ("translation_dialogue", "math")
    write_dev(data, tasks)
    asked = ("--tasks", ",".join(tasks), "--langs", "bo", "--shots", "0")
    hosts = ("large_ins", "small_cpt")
    rules = [argument for host in hosts for argument in ("--rule", f"saf:{host}")]
    on_dev = evaluate(*asked, "--split", "dev", *rules, out="dev")
    on_test = evaluate(*asked, *rules, out="test")
    report = evaluate(*asked, "--rule", "saf:auto", "--dev", "--rule", "average")
    dev, test = predictions(tmp_path / "dev"), predictions(tmp_path / "test")
    found = predictions(tmp_path / "out")
    assert len(report["cells"]) == 3
    for cell, tried in zip(report["cells"], on_dev["cells"], strict=True):
        choice, other = cell["hosts"]
        assert other is None
        scores = {h: s["value"] for h, s in zip(hosts, tried["scores"], strict=True)}
        assert choice["scores"] == pytest.approx(scores)
        assert choice["n_items"] == 3
        assert choice["host"] == max(hosts, key=lambda host: scores[host])
        name = f"{cell['cell']}.jsonl"
        chosen = f"predictions/saf-{choice['host']}/{name}"
        assert found[f"predictions/saf-auto/{name}"] == test[chosen]
        for host in hosts:
            tried_here = found[f"predictions/saf-auto-dev-{host}/{name}"]
            assert tried_here == dev[f"predictions/saf-{host}/{name}"]
    assert {tuple(c["scores"][0].values()) for c in report["cells"]} <= {
        tuple(score.values()) for cell in on_test["cells"] for score in cell["scores"]
    }
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert re.search(r"math\.bo, saf:auto: host \w+, chosen on 3 items of dev data \(", text)
    spoilt = json.loads((tmp_path / "out" / "hosts.json").read_text(encoding="utf-8"))
    spoilt["saf:auto"]["math.bo"]["host"] = "small_base"
    write_json(tmp_path / "out" / "hosts.json", spoilt)
    with pytest.raises(EvaluationError, match=r"hosts\.json is damaged"):
        read_run(tmp_path / "out")


def test_another_judge_scores_the_same_predictions_and_runs_no_model(
    evaluate: Evaluate, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--tasks", "math,response_selection", "--langs", "bo", "--shots", "0")
    first = evaluate(*asked, "--rule", "average", "--rule", "proxy")
    texts = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")}
    (tmp_path / "out" / "predictions" / "average" / "math.bo.jsonl").write_bytes(
        b"".join(
            json.dumps({**json.loads(line), "output": "1,000.", "reference": "1000"}).encode()
            + b"\n"
            for line in texts[tmp_path / "out/predictions/average/math.bo.jsonl"].splitlines()
        )
    )
    proxy = tmp_path / "out/predictions/proxy/math.bo.jsonl"
    proxy.write_bytes(
        b"".join(
            json.dumps({**json.loads(line), "output": "1 000", "reference": "1000"}).encode()
            + b"\n"
            for line in texts[proxy].splitlines()
        )
    )

    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("trimix_edge.trimix.TriMix.load", load)
    for judge, right in (("default", [100, 100]), ("paper", [100, 0])):
        report = evaluate(*asked, "--rule", "average", "--rule", "proxy", "--judge", judge)
        assert report["judge"] == judge
        math = next(cell for cell in report["cells"] if cell["cell"] == "math.bo")
        assert [score["value"] for score in math["scores"]] == right
        assert ("paper's code" in report["metrics"]["math"]["detail"]) == (judge == "paper")
    assert first["judge"] == "default"


def test_the_report_gives_each_task_its_own_rule(evaluate: Evaluate, tmp_path: Path) -> None:
    tasks = ("math", "text_classification", "response_selection")
    report = evaluate(
        "--tasks", ",".join(tasks), "--langs", "bo", "--shots", "1", "--limit", "1", said=True
    )  # fmt: skip
    assert report["metrics"].keys() == set(tasks)
    details = [report["metrics"][task]["detail"] for task in tasks]
    for detail, word in zip(details, ("number", "label", "letter"), strict=True):
        assert word in detail
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for task, detail in zip(tasks, details, strict=True):
        assert f"- {task}: accuracy, {detail}\n" in text
    assert (
        "- exemplars of text_classification: 2, the first 1 of each label, shuffled with seed 0; "
        "labels by their code points: Sport, Travel\n" in text
    )
    assert "- exemplars of math: 1, the first ones of the file\n" in text
    assert "- text_classification: text cut to 1024 characters, which shortened 0 of 1" in text


def test_only_evaluated_tokens_of_prompts_count_for_speed(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    report = evaluate("--tasks", "math", "--langs", "bo", "--shots", "1", "--rule", "average",
                      "--keep-prompts")  # fmt: skip
    (lines,) = predictions(tmp_path / "out").values()
    prompts = [line["prompt"] for line in lines]
    same = [len(set(letters)) == 1 for letters in zip(*prompts, strict=False)]
    shared = same.index(False)
    assert shared > 100
    for line in lines:  # tokens of the tiny trio are bytes and a few words
        assert 0 < line["n_evaluated"] <= len(line["prompt"][shared:].encode()) + 3
        assert line["n_evaluated"] < line["n_prompt"] / 2
    (counts,), (speed,) = report["cells"][0]["counts"], report["cells"][0]["speed"]
    n_evaluated = sum(line["n_evaluated"] for line in lines)
    assert counts["prompt_tokens_evaluated"] == n_evaluated
    path = next((tmp_path / "out").rglob("*.jsonl"))
    seconds = sum(json.loads(line)["seconds"]["prompt"] for line in path.read_bytes().splitlines())
    assert speed["prompt_tokens_per_second"] == pytest.approx(n_evaluated / seconds, abs=0.01)


def test_what_does_not_fit_was_not_evaluated(evaluate: Evaluate, tmp_path: Path) -> None:
    report = evaluate("--tasks", "math", "--langs", "bo", "--shots", "0", "--ctx", "32", said=True)
    assert report["cells"][0]["counts"][0]["prompt_tokens"] > 0
    assert report["cells"][0]["counts"][0]["prompt_tokens_evaluated"] == 0
    assert report["cells"][0]["speed"][0]["prompt_tokens_per_second"] == 0


def test_what_is_no_task_and_languages_that_are_not_there_are_named(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    data = write_milic(tmp_path / "data", ("bo", "ug"), ("math",), n_items=1)
    write_milic(data, ("bo",), ("response_selection",), n_items=1)
    for name in ("vocabulary", "audio", ".cache"):
        (data / name / "bo").mkdir(parents=True)
    asked = ("evaluate", "--data", data, "--shots", "0", "--langs", "bo,ug")
    told = [
        "note: folder 'audio' is skipped: it is no task",
        "note: response_selection is skipped in ug: it has no such folder",
        "note: folder 'vocabulary' is skipped: MiLiC-Eval's vocabulary task is not one of the "
        "paper's, and is not read here",
    ]
    code, _, err = run(*asked, "--print-prompts")
    assert (code, err.splitlines()) == (0, told)
    code, _, err = run(*asked, "--trio", tiny, "--out", tmp_path / "out", *FAST)
    assert (code, err.splitlines()[1:]) == (0, told)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert all(f"- {line.removeprefix('note: ')}\n" in text for line in told)
    named = run(*asked, "--tasks", "math", "--trio", tiny, "--out", tmp_path / "named", *FAST)
    assert "skipped" not in named.err


@pytest.mark.parametrize(
    ("folder", "like", "changed"),
    [
        ("text_classification_sentence", "text_classification", {}),
        ("text_classification_passage", "text_classification", {"text": "passage"}),
        ("title_generation", "title_generation_200", {"content": "text"}),
        ("translation_article", "translation_dialogue", {}),
    ],
)
def test_the_benchmark_s_own_names_of_folders_are_the_same_tasks(
    run: Run, tmp_path: Path, folder: str, like: str, changed: dict[str, str]
) -> None:
    found = []
    for name, renamed in ((like, {}), (folder, changed)):
        data = tmp_path / name
        for split in ("test", "train_1"):
            entries = [record(like, "ug", n) for n in range(6)]
            for old, new in renamed.items():
                entries = [{**entry, new: entry[old]} for entry in entries]
                for entry in entries:
                    del entry[old]
            write_json(data / name / "ug" / f"{split}.json", entries)
        code, out, err = run("evaluate", "--data", data, "--print-prompts", "--json")
        assert (code, err) == (0, "")
        found.append([entry["prompt"] for entry in json.loads(out)])
    assert found[0] == found[1] != []


def test_printed_prompts_can_t_steer_a_terminal_and_need_no_model(run: Run, tmp_path: Path) -> None:
    item = {**record("math", "bo", 0), "question": "\x1b[2J?"}
    write_json(tmp_path / "math" / "bo" / "test.json", [item])
    code, out, _ = run("evaluate", "--data", tmp_path, "--print-prompts", "--shots", "0")
    assert code == 0
    assert out.startswith("=== math.bo ===\nSolve the problem in Tibetan")
    assert out.endswith("Problem: \ufffd[2J?\nSolution:\n")
