"""Tables and texts in narrow terminals: nothing is cut, and no Tibetan syllable is broken."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from trimix_edge.cli.console import show_table, wrapped

HEADER = ("preset", "size", "licence")
ROWS = [("qwen2.5-1.5b-3b-bo", "3.9 GB", "qwen-research, apache-2.0"), ("[dim]x", "12.0 GB", "")]


def shown(width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, highlight=False)
    show_table(HEADER, ROWS, right=(1,), console=console)
    return out.getvalue()


def test_a_wide_terminal_gets_a_table() -> None:
    header, first, second = shown(80).splitlines()
    assert header.split() == list(HEADER)
    assert first.index("3.9 GB") == second.index("12.0 GB") + 1
    assert second.split()[0] == "[dim]x"


def test_the_last_column_may_take_several_lines() -> None:
    lines = shown(48).splitlines()
    assert max(map(cell_len, lines)) <= 48
    assert "qwen-research," in lines[1]
    assert lines[2].split() == ["apache-2.0"]


@pytest.mark.parametrize("width", [20, 40, 44])
def test_a_narrow_one_gets_every_cell_whole(width: int) -> None:
    text = shown(width)
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= width
    told = " ".join(text.split())
    assert told == (
        "qwen2.5-1.5b-3b-bo size: 3.9 GB licence: qwen-research, apache-2.0 [dim]x size: 12.0 GB"
    )


def test_lines_end_after_syllables() -> None:
    text = "བོད་ཡིག་གི་ཡི་གེ་འདི་རྣམས། ཨིན།"
    lines = wrapped(text, 8)
    assert len(lines) > 2
    assert all(line[-1] in "་། " for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_the_tsheg_that_binds_is_no_place_to_break() -> None:
    assert wrapped("ཀཀ་ཀ\u0f0cཀ", 5) == ["ཀཀ་", "ཀ\u0f0cཀ"]


@given(st.text("ab་།ཀི \u0f0c", max_size=60), st.integers(2, 30))
def test_lines_fit_and_lose_only_spaces(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert max(map(cell_len, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
