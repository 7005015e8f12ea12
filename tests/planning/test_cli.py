"""``plan`` answers before anything is downloaded or loaded, and bad input is told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from quantize.parts import split
from tiny_models import edit_gguf

from trimix_edge.cli import run
from trimix_edge.trios.manifest import embedded_trios


def planned(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(["plan", "--json", "--machine", "pi5-8gb", *arguments]) == 0
    plans: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
    return plans


def test_a_preset_is_planned_by_type(capfd: pytest.CaptureFixture[str]) -> None:
    (plan,) = planned(capfd, "qwen2.5-1.5b-7b-bo")
    rows = {row["quantization"]: row for row in plan["rows"] if row["kv_type"] == "f16"}
    assert [row["kv_type"] for row in plan["rows"][:2]] == ["f16", "q8_0"]
    assert plan["fused"] == ["large_ins", "small_cpt"]
    assert not rows["Q8_0"]["fits"]
    assert rows["Q4_K_M"]["fits"]
    assert rows["Q8_0"]["fused"]["generation"] < rows["Q4_K_M"]["fused"]["generation"]
    assert rows["Q4_K_M"]["drafting"] > rows["Q4_K_M"]["fused"]["generation"]
    assert plan["source"].startswith("github.com/")
    (smaller,) = planned(capfd, "qwen2.5-1.5b-7b-bo", "--memory", "4GB", "--quant", "q8_0,Q4_K_M")
    assert [row["quantization"] for row in smaller["rows"][::2]] == ["Q8_0", "Q4_K_M"]
    assert smaller["recommended"] is None
    (longer,) = planned(capfd, "qwen2.5-1.5b-7b-bo", "--ctx", "8192", "--parallel", "4")
    assert longer["rows"][6]["quantization"] == "Q4_K_M"
    assert longer["rows"][6]["memory"] > rows["Q4_K_M"]["memory"]
    assert longer["rows"][6]["total"] > rows["Q4_K_M"]["total"]
    assert rows["Q4_K_M"]["files"].keys() == {"large_ins", "small_cpt", "small_base"}
    assert rows["Q4_K_M"]["download"] == sum(rows["Q4_K_M"]["files"].values())


def test_characters_a_second_are_those_of_the_presets_language(
    capfd: pytest.CaptureFixture[str],
) -> None:
    (plan,) = planned(capfd, "qwen2.5-1.5b-7b-bo", "--quant", "q4_0", "--kv-type", "q8_0")
    (row,) = plan["rows"]
    assert row["kv_type"] == "q8_0"
    assert 0.5 < plan["characters_per_token"] < 1, "Tibetan takes more tokens than characters"
    for speed in (row["fused"], row["alone"]["small_cpt"]):
        ratio = speed["generation_characters"] / speed["generation"]
        assert ratio == pytest.approx(plan["characters_per_token"])
    (odia,) = planned(capfd, "llama-2-7b-13b-or", "--quant", "q4_0")
    assert odia["characters_per_token"] is None
    assert odia["rows"][0]["fused"]["prompt_characters"] is None


def test_a_sample_tells_the_characters_of_a_token(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "sample.txt"
    text.write_text("Open the file. " * 40, encoding="utf-8")
    (trio,) = planned(capfd, "dzongkha", "--sample", str(text))
    assert 1 < trio["characters_per_token"] < 15
    assert trio["characters_counted_on"] == "the sample"
    (silent,) = planned(capfd, "dzongkha")
    assert silent["characters_per_token"] is None
    text.write_text(" \n", encoding="utf-8")
    assert run(["plan", "--machine", "pi5-8gb", "dzongkha", "--sample", str(text)]) == 1
    assert "there is no text in it" in capfd.readouterr().err


def test_the_table_shows_each_model_alone_the_total_and_characters(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    arguments = ["qwen2.5-1.5b-7b-bo", "--machine", "pi5-16gb", "--parallel", "4"]
    assert run(["plan", *arguments]) == 0
    out = capfd.readouterr().out
    for told in (
        "total of 4",
        "drafting",
        "char./s",
        "tokens/s alone",
        "small_base",
        "not measured",
    ):
        assert told in out
    assert out.count("* recommended") == 1
    assert sum("Q4_K_M *" in line or "Q8_0 *" in line for line in out.splitlines()) <= 1


def test_without_a_name_all_presets_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--machine", "pi4-4gb"]) == 0
    out = capfd.readouterr().out
    assert "qwen2.5-1.5b-3b-bo" in out
    assert "llama-2-7b-13b-ta" in out
    assert "not measured here" in out


def test_files_and_trios_are_planned_from_their_heads(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, _ = split(small, tmp_path)
    plans = planned(capfd, "dzongkha", str(small), str(first), "--ctx", "256")
    trio, files = plans
    sizes = sum(path.stat().st_size for path in embedded_trios()["dzongkha"].parent.glob("*.gguf"))
    assert trio["rows"][0]["download"] == sizes
    assert set(files["rows"][0]["alone"]) == {"small", "m-00001-of-00002"}
    alone = files["rows"][0]["alone"]
    assert alone["small"] == alone["m-00001-of-00002"], "parts count as one"
    together = files["rows"][0]["fused"]["generation"]
    assert together < alone["small"]["generation"]


def test_names_of_strangers_are_shown_as_a_terminal_does_not_obey_them(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evil = tmp_path / "\x1b]0;owned\x07[bold].gguf"
    evil.write_bytes(small.read_bytes())
    assert run(["plan", "--machine", "pi5-8gb", str(evil)]) == 0
    assert "\x1b" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["--machine", "pi9"], "no machine is called 'pi9': there are pi4-8gb", 2),
        (["--memory", "lots"], "memory 'lots' is no size", 2),
        (["--memory", "9" * 15 + "TB"], "is no size from 100MB", 2),
        (["--ctx", "0"], "--ctx", 2),
        (["--ctx", "99999999999"], "--ctx", 2),
        (["--parallel", "-1"], "--parallel", 2),
        (["--quant", "Q4_K_M,Q9"], "no sizes are known for 'Q9'", 2),
        (["--quant", ","], "no sizes are known for ''", 2),
        (["dzongkha", "--quant", "Q8_0"], "--quant is for presets and repositories: dzongkha", 2),
        (["x.gguf", "--quant", "Q8_0"], "--quant is for presets and repositories: x.gguf", 2),
        (["--again", "--machine", "pi5-8gb"], "--again measures this machine", 2),
        (["--kv-type", "q1"], "kv-type 'q1' is not one of", 2),
        (["nothing-of-that-name"], "nor a preset", 2),
        (["none.gguf"], "none.gguf: no such file", 1),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str], told: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = [] if "--machine" in arguments else ["--machine", "pi5-8gb"]
    assert run(["plan", *machine, *arguments]) == code
    out, err = capfd.readouterr()
    assert told in err
    assert (out, err.count("\n")) == ("", 1)


def test_files_that_lie_are_refused_or_planned(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lies: dict[str, dict[str, Any]] = {
        "layers": {"llama.block_count": 0},
        "width": {"llama.embedding_length": 0},
        "huge": {"llama.attention.head_count_kv": 2**31 - 1},
    }
    codes = {}
    for name, lie in lies.items():
        path = edit_gguf(small, tmp_path / f"{name}.gguf", lie)
        codes[name] = run(["plan", "--machine", "pi5-8gb", str(path)])
        out, err = capfd.readouterr()
        assert bool(out) != bool(err)
    assert codes == {"layers": 1, "width": 1, "huge": 0}


def test_pull_asks_before_it_fetches_what_will_not_fit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * 10**9, available=10**9)
    )
    folder = tmp_path / "trio"
    assert run(["pull", "qwen2.5-1.5b-7b-bo", "--to", str(folder)]) == 2
    err = capfd.readouterr().err
    assert "this machine has 4.00 GB in all, and it will not fit" in err
    assert "--yes" in err
    assert not folder.exists()
