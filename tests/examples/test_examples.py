"""Each example runs as its docstring says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLES,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, "COLUMNS": "200"},  # a row of a table is a line
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def has_dzongkha(text: str) -> bool:
    return any("\u0f40" <= c <= "\u0fbc" for c in text)


@pytest.mark.parametrize("script", ["translate.py", "loop.py"])
def test_short_programs_print_dzongkha(script: str) -> None:
    assert has_dzongkha(run(script))


def test_weights_shows_a_line_for_each_setting() -> None:
    lines = run("weights.py", "Click OK.").splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("(1, 0, 0)")
    assert any("small_cpt:0.1" in line for line in lines)


@pytest.fixture(scope="module")
def demo() -> str:
    return run("demo.py")


SYSTEMS = ("large_ins", "small_cpt", "small_base", "Proxy Tuning", "TriMix (", "TriMix, fitted")


def test_demo_puts_every_system_in_one_table_and_says_what_to_conclude(demo: str) -> None:
    assert has_dzongkha(demo)
    lines = demo.splitlines()
    bits = [figures(next(line for line in lines if line.strip().startswith(n))) for n in SYSTEMS]
    large, fitted = bits[0][0], bits[-1][0]
    assert fitted < large < min(row[0] for row in bits[1:4])
    difference, low, high = bits[-1][1:4]
    assert difference == pytest.approx(fitted - large, abs=2e-4)
    assert low < difference < high < 0
    assert "the human translation is likelier than with large_ins" in lines[-1]


def test_the_readme_shows_the_table_of_the_demo(demo: str) -> None:
    """Other processors round otherwise: close, and the texts that chrF++ is of may differ."""
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8").splitlines()
    for system in SYSTEMS:
        printed = figures(next(n for n in demo.splitlines() if n.strip().startswith(system)))
        told = figures(next(line for line in readme if line.startswith(f"| {system}")))
        *bits, chrf = told
        assert bits == pytest.approx(printed[: len(bits)], abs=2e-3)
        assert chrf == pytest.approx(printed[len(bits)], abs=1.5)


def figures(line: str) -> list[float]:
    """The numbers of a table's row, but for those of the system's own name."""
    return [float(x) for x in re.findall(r"[-+]?\d+\.?\d*", re.sub(r"TriMix \([^)]*\)", "", line))]


def test_evaluation_prints_both_tables() -> None:
    shown = run("dzongkha_trio/evaluate.py", "--limit", "12", "--no-chrf")
    assert "TriMix less it" in shown
    assert "Proxy Tuning" in shown


def test_evaluation_puts_every_system_side_by_side() -> None:
    pytest.importorskip("sacrebleu")
    shown = run("dzongkha_trio/evaluate.py", "--limit", "3", "--threads", "1")
    for name in ("large_ins alone", "average", "SAF-W", "TriMix-PPL", "Newton on dev"):
        assert name in shown


def test_few_shot_compares_scripts_and_exemplars_on_the_same_items() -> None:
    pytest.importorskip("sacrebleu")
    lines = run("dzongkha_trio/few_shot.py", "--limit", "4").splitlines()
    assert "5 items of test.tsv" in lines
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| auto")]
    none, papers, script, less_none = rows
    less_papers = next(line for line in lines if "auto:Tibt less auto:all" in line).split("|")[1:-1]
    assert [row[1].strip() for row in rows[:3]] == ["0", "3", "3"]
    for column, close in ((3, 2e-4), (4, 0.11)):
        value = [float(row[column].split()[0]) for row in (none, papers, script)]
        for row, difference in (
            (less_none, value[1] - value[0]),
            (less_papers, value[2] - value[1]),
        ):
            assert float(row[column - 2].split()[0]) == pytest.approx(difference, abs=close)
    assert papers[2] != script[2], "the exemplars' tokens of one script choose other weights"


def test_slices_measures_the_shipped_trio_and_shows_its_figures_again(tmp_path: Path) -> None:
    """The trained trios need PyTorch; what is measured of each is the same."""
    file = str(tmp_path / "slices.json")
    script = "dzongkha_trio/slices.py"
    printed = run(script, "--pairs", "--limit", "6", "--threads", "1", "--json", file)
    (row,) = json.loads(Path(file).read_text("utf-8"))
    bits = row["test"]["bits_per_byte"]
    single = bits[row["best_single"]]
    assert row["test"]["less_best_single"][0] == pytest.approx(bits["TriMix"] - single)
    assert sum(row["weights"]) == pytest.approx(1)
    assert row["dev"]["less_best_single"][0] < 0, "weights fitted on dev lose nothing there"
    assert run(script, "--show", "--json", file).splitlines()[-3:] == printed.splitlines()[-3:]
