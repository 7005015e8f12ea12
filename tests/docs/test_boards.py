"""Tables of boards and laptops are what ``trimix-edge plan`` prints, and the advice follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docs.tables import rows_of

from trimix_edge.cli import run
from trimix_edge.cli.show_plan import rate
from trimix_edge.files import megabytes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "raspberry-pi.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
MACHINES = {"Pi 5, 8 GB": "pi5-8gb", "Pi 4, 4 GB": "pi4-4gb"}


def planned(capfd: pytest.CaptureFixture[str], preset: str, *arguments: str) -> dict[str, Any]:
    assert run(["plan", preset, "--kv-type", "f16", "--json", *arguments]) == 0
    (plan,) = json.loads(capfd.readouterr().out)
    (row,) = plan["rows"]
    return dict(row)


def test_the_table_of_boards_is_what_plan_prints(capfd: pytest.CaptureFixture[str]) -> None:
    told = [row for row in rows_of(PAGE) if row[0] in MACHINES]
    assert len(told) == 5
    for board, preset, *figures in told:
        row = planned(capfd, preset, "--machine", MACHINES[board], "--quant", "Q4_K_M")
        assert figures == [
            megabytes(row["download"]),
            megabytes(row["memory"]),
            "yes" if row["fits"] else "no",
            rate(row["fused"]["prompt"]),
            rate(row["fused"]["generation"]),
        ]


def test_the_readmes_table_is_what_plan_prints(capfd: pytest.CaptureFixture[str]) -> None:
    (header,) = [row for row in rows_of(README) if row[-1] == "laptop, DDR4, 16 GB"]
    assert header[3] == "Raspberry Pi 5, 8 GB"
    told = [row for row in rows_of(README) if row[0].startswith("qwen") and len(row) == 5]
    assert len(told) == 3
    for preset, files, memory, *rates in told:
        for machine, printed in zip(("pi5-8gb", "laptop-ddr4"), rates, strict=True):
            row = planned(capfd, preset, "--machine", machine, "--quant", "Q4_K_M")
            assert row["fits"]
            assert (files, memory) == (megabytes(row["download"]), megabytes(row["memory"]))
            assert printed == f"{rate(row['fused']['generation'])}, {rate(row['drafting'])}"


@pytest.mark.parametrize(
    "smaller", [["--quant", "Q4_K_M", "--ctx", "2048"], ["--quant", "Q4_0"]], ids=["ctx", "type"]
)
def test_what_is_advised_for_a_pi_4_fits(
    capfd: pytest.CaptureFixture[str], smaller: list[str]
) -> None:
    assert planned(capfd, "qwen2.5-1.5b-3b-bo", "--machine", "pi4-4gb", *smaller)["fits"]
