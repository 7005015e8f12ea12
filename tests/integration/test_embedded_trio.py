"""The trio inside the package: it loads, it streams Dzongkha, and it is small."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimix_edge import ContextParams, Role, TriMix
from trimix_edge.trios.manifest import DEFAULT_TRIO, embedded_trios

FOLDER = embedded_trios().get(DEFAULT_TRIO, Path()).parent


@pytest.fixture(scope="module")
def dzongkha() -> Iterator[TriMix]:
    with TriMix.load(context=ContextParams(n_threads=1), roles=list(Role)) as trimix:
        yield trimix


def test_it_is_the_default(dzongkha: TriMix) -> None:
    assert dzongkha.manifest.name == DEFAULT_TRIO
    assert dzongkha.trio.roles == tuple(Role)


def test_it_takes_at_most_16_megabytes() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".gguf"]) == 3
    assert sum(path.stat().st_size for path in files) <= 16_000_000


def test_it_streams_dzongkha(dzongkha: TriMix) -> None:
    chunks = list(dzongkha.stream("Save the file.", max_tokens=40))
    text = "".join(chunk.text for chunk in chunks)
    letters = [letter for letter in text if not letter.isspace()]
    tibetan = [letter for letter in letters if "TIBETAN" in unicodedata.name(letter, "")]
    assert len(tibetan) > 5
    assert len(tibetan) / len(letters) > 0.8
    assert "\ufffd" not in text
    assert sum(bool(chunk.text) for chunk in chunks) > 1


def test_it_repeats_itself_exactly(dzongkha: TriMix) -> None:
    first, second = (dzongkha.generate("Open the window.", max_tokens=30) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert first.text == second.text != ""


def test_its_card_names_data_and_licence() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8").lower()
    assert all(word in card for word in ("licen", "limit", "data"))
