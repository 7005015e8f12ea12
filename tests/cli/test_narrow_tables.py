"""What each verb shows as a table, in a terminal of 60 columns: names are whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from tiny_models import edit_gguf

from trimix_edge.cli import compare_quants, evaluate
from trimix_edge.hub import presets
from trimix_edge.measure.compare_quants import Comparison
from trimix_edge.measure.quant_loss import Loss, Variant

Run = Callable[..., tuple[int, str, str]]

TIBETAN = "བོད་ཡིག་གི་ཡི་གེ་འདི་རྣམས་ཞིབ་ཏུ་བརྟགས་ནས་འགྲེལ་བཤད་བྱས་པ་ཡིན།" * 2
LONG = "a-name-that-is-as-long-as-names-of-files-are"
QUICK = ("-r", "1", "-t", "1")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def check(out: str, *names: str) -> None:
    """Lines fit, each name stands in one of them, and Tibetan ends where a syllable does."""
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(cell_len, lines)) <= 60
    assert "…" not in out
    for name in names:
        assert any(name in line for line in lines), name
    broken = [line for line in lines if re.search(r"[\u0f40-\u0fbc]$", line)]
    assert not broken


def show_quants() -> None:
    loss = Loss(f"{LONG}.txt", 1.25, (0.0, -0.1, 0.1), (0.01, 0.005, 0.015), 0.99)
    found = [Variant(kind, None, 10**9, 2 * 10**9, (loss,), 12.5) for kind in ("F16", "IQ4_NL")]
    model = Path("model.gguf")
    compared = Comparison(model, 512, (4,), (1024,), found[0], (found[1],))
    compare_quants._print(compared, found[1], 10**10, markdown=False)


def show_scores() -> None:
    def score(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 1, "high": value + 1, "p": 0.5}

    cell = {"metric": "accuracy", "n_items": 100, "scores": [score(50), score(60)]}
    cells = [{**cell, "cell": f"{LONG}/bo", "less_first": [score(10)]}]
    systems = [{"name": "trimix"}, {"name": f"single:{LONG}"}]
    evaluate.show({"systems": systems, "cells": cells, "average": None})


@pytest.mark.parametrize(
    ("show", "names"),
    [
        (show_quants, ("F16 (as given)", "IQ4_NL", "same top: 99.0%")),
        (show_scores, (f"{LONG}/bo", f"single:{LONG}", "difference: +10.0")),
    ],
)
def test_measurements(
    capsys: pytest.CaptureFixture[str], show: Callable[[], None], names: tuple[str, ...]
) -> None:
    show()
    check(capsys.readouterr().out, *names)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("presets",), tuple(presets())),
        (("plan", "--machine", "pi5-8gb"), tuple(presets())),
        (("info",), ("llama-cpp-python", "physical cores", "embedded trios")),
        (("inspect", "dzongkha"), ("dzongkha", "weights from")),
    ],
)
def test_what_is_installed(run: Run, arguments: tuple[str, ...], names: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    check(out, *names)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("score", "TRIO", "TEXT"), ("fused", "large_ins", "likeliest")),
        (("fit", "TRIO", "--text", "TEXT"), ("grid's best", "present")),
        (("bench", "TRIO", *QUICK, "-n", "8", "-p", "8"), ("large_ins alone", "fused, drafting")),
        (("bench", "TRIO", *QUICK, "--parallel", "1,2", "-c", "512"), ("fused", "small_cpt")),
    ],
)
def test_measurements_of_a_trio(
    run: Run, tiny: Path, tmp_path: Path, arguments: tuple[str, ...], names: tuple[str, ...]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Open the file. Save the file.", encoding="utf-8")
    given = {"TRIO": tiny, "TEXT": text}
    code, out, _ = run(*(given.get(argument, argument) for argument in arguments))
    assert code == 0
    check(out, *names)


def test_strangers_names_in_tibetan(run: Run, tiny: Path, tmp_path: Path) -> None:
    named = edit_gguf(tiny / "small_cpt.gguf", tmp_path / "a.gguf", {"general.name": TIBETAN})
    code, out, _ = run("inspect", named)
    assert code == 0
    lines = [line for line in out.splitlines() if not line.strip().startswith(str(tmp_path)[:8])]
    check("\n".join(lines), "token_embd", "parameters", "quantisation")
    manifest = (tiny / "trio.toml").read_text(encoding="utf-8")
    told = manifest.replace('name = "tiny"', f'name = "tiny"\ndescription = "{TIBETAN}"')
    for model in tiny.glob("*.gguf"):
        (tmp_path / model.name).symlink_to(model)
    (tmp_path / "trio.toml").write_text(told, encoding="utf-8")
    code, out, _ = run("inspect", tmp_path)
    assert code == 0
    assert TIBETAN in re.sub(r"\s", "", out)
    check(out, "description", "weights from")
