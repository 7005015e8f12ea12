"""bench: the table, its JSON, and random models of published shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimix_edge.hub.presets import presets_content
from trimix_edge.measure import synthetic

Run = Callable[..., Any]
QUICK = ("-r", "2", "-n", "6", "-p", "20", "-t", "1", "-c", "512")


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shapes that take a moment instead of minutes."""
    content = presets_content()
    tiny = {"n_layer": 2, "n_embd": 256, "n_ff": 256, "n_head": 4, "n_head_kv": 2, "head_dim": 64}
    content["shapes"] = {
        "qwen2.5-1.5b": {**tiny, "n_vocab": 1024},
        "qwen2.5-7b": {**tiny, "n_layer": 3, "n_vocab": 1024},
    }
    monkeypatch.setattr(synthetic, "presets_content", lambda: content)


def test_the_table_has_a_row_for_each_way(run: Run, tiny: Path) -> None:
    code, out, _ = run("bench", tiny, *QUICK)  # a busy machine is told its progress on stderr
    assert code == 0
    for name in (
        "large_ins alone",
        "small_base, prompt",
        "fused, drafting",
        "tokens/s by draft length",
    ):
        assert name in out
    assert "peak memory" in out
    assert "simulated" not in out


def test_the_json_has_what_the_table_has(run: Run, tiny: Path) -> None:
    code, out, _ = run("bench", tiny, *QUICK, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["acceptance_simulated"] is None
    cases = {case["case"]: case for case in found["cases"]}
    assert cases["fused, drafting"]["times_plain"] > 0
    assert cases["fused"]["drafted"] == 0
    assert all(case["tokens_per_second"] > 0 for case in found["cases"])
    assert set(cases["fused, drafting"]["by_draft_length"]) == {"0", "3", "7", "15"}
    assert found["peak_memory"] > found["file_bytes"] > 0


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("acceptance", ["0", "0.5", "1"])
def test_simulated_acceptance_is_what_was_asked_for_and_says_so(
    run: Run, tmp_path: Path, acceptance: str
) -> None:
    arguments = ("--synthetic", "qwen2.5-1.5b+7b:Q4_0", "--acceptance", acceptance)
    quick = ("-r", "2", "-n", "120", "-p", "20", "-t", "1", "--keep", tmp_path)
    found = json.loads(run("bench", *arguments, *quick, "--json").out)
    assert found["acceptance_simulated"] == float(acceptance)
    assert len(list(tmp_path.glob("*.gguf"))) == 3
    for case in found["cases"]:
        if case["drafted"] > 30:
            # Tokens after the first wrong one of a draft are not accepted, whatever they are.
            assert case["accepted"] / case["drafted"] <= float(acceptance) + 0.15
        if acceptance == "1":
            assert case["accepted"] == case["drafted"]
    shown = run("bench", *arguments, *quick).out
    assert "(simulated)" in shown
    assert f"an acceptance of {acceptance} is simulated" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--synthetic nonsense", "is not FAMILY-SMALL+LARGE:TYPE"),
        ("--synthetic qwen2.5-1.5b+9b:Q4_K_M", "is not FAMILY-SMALL+LARGE:TYPE"),
        ("--synthetic qwen2.5-1.5b+7b:Q9", "'Q9' is not one of"),
        ("dzongkha --synthetic qwen2.5-1.5b+7b", "name one or the other"),
        ("--acceptance 2", "less than or equal to 1"),
        ("--runs 0", "greater than or equal to 1"),
    ],
)
def test_wrong_usage_is_told_in_one_line(run: Run, arguments: str, told: str) -> None:
    code, out, err = run("bench", *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_a_file_without_prompts_is_told(run: Run, tiny: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    code, _, err = run("bench", tiny, "--file", empty)
    assert code == 1
    assert "holds no prompt" in err


def test_many_sequences_have_a_row_for_each_number(run: Run, tiny: Path) -> None:
    quick = ("-r", "1", "-t", "1", "-c", "512")
    code, out, _ = run("bench", tiny, "--parallel", "1,3", *quick)
    assert code == 0
    assert "of llama.cpp's batch" in out
    found = json.loads(run("bench", tiny, "--parallel", "1,3", *quick, "--json").out)
    assert [row["sequences"] for row in found if row["case"] == "fused"] == [1, 3]
    assert all(row["tokens_per_second"] > 0 for row in found)
    code, _, err = run("bench", tiny, "--parallel", "0,2", *quick)
    assert code == 2
    assert err.count("\n") == 1
