"""The tables of docs/evidence.md are what the shipped commands print of their files of figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.tables import rows_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "dzongkha_trio"
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text("utf-8")


def test_the_table_of_slices_is_what_the_command_prints() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE / "slices.py", "--show"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    printed = [row for row in rows_of(done.stdout) if not set("".join(row)) <= set("-:")]
    assert len(printed) > 2
    told = rows_of(EVIDENCE)
    assert all(row in told for row in printed)


def test_figures_in_the_text_stand_in_a_table() -> None:
    """Bits a byte in a sentence, four decimals, are those of a row."""
    prose = "\n".join(line for line in EVIDENCE.splitlines() if not line.startswith("|"))
    tables = "\n".join(line for line in EVIDENCE.splitlines() if line.startswith("|"))
    told = re.findall(r"[-+]?0\.\d{4}", prose)
    assert told
    assert all(figure in tables for figure in told)


def test_the_likelihoods_are_those_of_the_model_card() -> None:
    """Both are what evaluate.py prints; they must not drift apart."""
    card = (ROOT / "trimix_edge" / "trios" / "dzongkha" / "README.md").read_text("utf-8")
    in_card = [row for row in rows_of(card) if len(row) in (6, 8)]
    told = rows_of(EVIDENCE)
    assert len(in_card) > 15
    assert all(row in told for row in in_card)


def test_the_likelihoods_are_those_that_the_command_wrote() -> None:
    """likelihood.json: ``evaluate.py --no-chrf --json``; another processor rounds otherwise."""
    figures = json.loads((EXAMPLE / "likelihood.json").read_text("utf-8"))
    assert (figures["dev_items"], figures["test_items"]) == (462, 370)
    told = {row[0].strip("*"): row for row in rows_of(EVIDENCE) if len(row) == 6}
    for written in figures["likelihood"]:
        row = told[written["system"]]
        assert float(row[2]) == pytest.approx(written["bits_per_byte"][0], abs=1e-3)
        if row[4]:
            low, high = map(float, row[5].split(" to "))
            shown = [float(row[4]), low, high]
            assert shown == pytest.approx(written["trimix_less_it"], abs=1e-3)
