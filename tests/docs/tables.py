"""Tables of a page, to compare with what a command prints."""

from __future__ import annotations


def rows_of(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
