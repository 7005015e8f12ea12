"""Bytes to text: whole characters only, stop strings never shown."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trimix_edge.decoding.text import TextStream
from trimix_edge.errors import UsageError

BLOCKS = {
    "tibetan": range(0x0F00, 0x1000),
    "mongolian": range(0x1800, 0x18B0),
    "arabic": range(0x0600, 0x0700),
    "arabic_forms": range(0xFB50, 0xFDD0),
    "emoji": [*range(0x1F300, 0x1FB00), *range(0x2600, 0x27C0), 0x200D, 0xFE0F],
}
ALPHABET = [chr(code) for block in BLOCKS.values() for code in block]
texts = st.text(st.sampled_from(ALPHABET) | st.sampled_from("ab\n"), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at these places: empty pieces too, as control tokens have."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def streamed(parts: list[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(stop)
    shown = []
    for part in parts:
        shown.append(stream.push(part))
        if stream.stopped:
            break
    return [*shown, stream.finish()]


def before_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the stop string that is complete first, slowly."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


@pytest.mark.parametrize("block", BLOCKS)
def test_every_character_survives_a_split_at_every_byte(block: str) -> None:
    for code in BLOCKS[block]:
        data = f"a{chr(code)}b".encode()
        for cut in range(len(data) + 1):
            shown = streamed([data[:cut], data[cut:]])
            assert "".join(shown) == data.decode()
            assert not any("\ufffd" in text for text in shown)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_whole_script_survives_byte_by_byte(block: str) -> None:
    text = "".join(map(chr, BLOCKS[block]))
    shown = streamed([bytes([byte]) for byte in text.encode()])
    assert "".join(shown) == text
    assert all(len(chunk) <= 1 for chunk in shown), "each character comes with its last byte"


@settings(deadline=None, max_examples=300)
@given(texts, st.lists(st.integers(0, 60), max_size=8))
def test_no_token_boundary_ever_changes_the_text(text: str, cuts: list[int]) -> None:
    shown = streamed(pieces(text.encode(), cuts))
    assert "".join(shown) == text
    assert "\ufffd" not in "".join(shown)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=24), st.lists(st.integers(0, 30), max_size=6))
def test_bytes_of_no_character_are_left_out(data: bytes, cuts: list[int]) -> None:
    shown = "".join(streamed(pieces(data, cuts)))
    assert shown == data.decode("utf-8", errors="ignore")
    assert "\ufffd" not in shown or "\ufffd".encode() in data


@settings(deadline=None, max_examples=500)
@given(
    st.text("ab\u0f0b\U0001f600", max_size=12),
    st.lists(st.text("ab\u0f0b\U0001f600", min_size=1, max_size=4), max_size=3).map(tuple),
    st.lists(st.integers(0, 40), max_size=10),
)
@example("aba", ("aba", "b"), [])
def test_the_text_ends_before_the_stop_string_that_appears_first(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    shown = streamed(pieces(text.encode(), cuts), stop)
    assert "".join(shown) == before_stop(text, stop)


@settings(deadline=None, max_examples=300)
@given(
    st.text("ab", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
)
def test_no_part_of_a_stop_string_is_ever_shown(text: str, stop: tuple[str, ...]) -> None:
    stream = TextStream(stop)
    shown, target = "", before_stop(text, stop)
    for byte in text.encode():
        shown += stream.push(bytes([byte]))
        assert target.startswith(shown)


@given(st.text("ab", max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_text_that_cannot_begin_a_stop_string_is_not_held_back(text: str, cuts: list[int]) -> None:
    stream = TextStream(("c",))
    parts = pieces(text.encode(), cuts)
    assert [stream.push(part) for part in parts] == [part.decode() for part in parts]


def test_a_stop_string_across_three_tokens_is_not_shown() -> None:
    stream = TextStream(("\nUser:",))
    assert [stream.push(part) for part in (b"Yes.\nU", b"se", b"r: no")] == ["Yes.", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_what_only_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    stream = TextStream(("\nUser:",))
    assert stream.push(b"Yes.\nUse") == "Yes."
    assert stream.finish() == "\nUse"
    assert not stream.stopped


def test_an_unfinished_character_at_the_end_is_left_out() -> None:
    stream = TextStream()
    assert stream.push("ཀ".encode()[:2]) == ""
    assert stream.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        TextStream(("a", ""))
