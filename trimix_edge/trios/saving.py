"""Weights that were fitted, written into a ``trio.toml`` that somebody wrote by hand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from trimix_edge.config import FusionWeights
from trimix_edge.errors import TrioConfigError
from trimix_edge.files import replacing
from trimix_edge.trios.manifest import BOM, embedded_trios
from trimix_edge.trios.source import WeightSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def check_savable(path: Path) -> None:
    """Raise TrioConfigError for the manifest of an embedded trio."""
    if path.resolve() in {embedded.resolve() for embedded in embedded_trios().values()}:
        raise TrioConfigError(
            f"{path.resolve().parent.name} is part of the installation and is not changed: copy "
            f"its folder and name the copy"
        )


def rounded(weights: FusionWeights) -> FusionWeights:
    """A pair as it is saved, to four digits."""
    return FusionWeights(round(weights.large_ins, 4), round(weights.small_cpt, 4))


def save_weights(path: Path, weights: FusionWeights, source: WeightSource | None = None) -> None:
    """Write a pair, to four digits, into a manifest's ``[fusion] weights``, and leave the rest of
    it as it is, comments too.

    Args:
        source: where the pair comes from, for ``[fusion.source]`` at the end; None takes an older
            one away, as it would be wrong.

    Raises:
        TrioConfigError: the manifest is one of an embedded trio, or written in a way in which the
            place is not found.
        TargetError: the file can't be written.
    """
    check_savable(path)
    # Bytes, not text: line ends and a byte order mark stay as they are.
    content = path.read_bytes().decode("utf-8")
    text = content.removeprefix(BOM)
    mark = content[: len(content) - len(text)]
    line_end = "\r\n" if "\r\n" in text else "\n"
    weights = rounded(weights)
    value = f"[{weights.large_ins!r}, {weights.small_cpt!r}]"
    header = re.search(r"^[ \t]*\[fusion\][^\n]*\n?", text, re.MULTILINE)
    if header is None:
        lines = (text.rstrip(), "", "[fusion]", f"weights = {value}", "")
        changed = line_end.join(lines)
    else:
        after = re.search(r"^[ \t]*\[", text[header.end() :], re.MULTILINE)
        end = header.end() + after.start() if after else len(text)
        section, count = re.subn(
            r"^([ \t]*weights[ \t]*=[ \t]*)(\[[^\]]*\]|\"[^\"\n]*\"|'[^'\n]*')",
            lambda found: found[1] + value,
            text[header.end() : end],
            count=1,
            flags=re.MULTILINE,
        )
        line = "" if count else f"weights = {value}{line_end}"
        gap = "" if header[0].endswith("\n") else line_end
        changed = text[: header.end()] + gap + line + section + text[end:]
    changed = _with_source(changed, source, line_end)
    _check_saved(path, text, changed, weights, source)
    with replacing(path) as scratch:
        scratch.write_bytes((mark + changed).encode("utf-8"))


def _with_source(text: str, source: WeightSource | None, line_end: str) -> str:
    """The text without its old ``[fusion.source]``, and with the new one at the end."""
    old = re.search(r"^[ \t]*\[fusion\.source\][^\n]*\n?", text, re.MULTILINE)
    if old is not None:
        after = re.search(
            r"^[ \t]*\[[^\]\n]+\][ \t\r]*(#[^\n]*)?$", text[old.end() :], re.MULTILINE
        )
        rest = text[old.end() + after.start() :] if after else ""
        text = text[: old.start()].rstrip() + (line_end * 2 + rest if rest else line_end)
    if source is None:
        return text
    return line_end.join([text.rstrip(), "", *source.as_toml(), ""])


def _check_saved(
    path: Path, before: str, after: str, weights: FusionWeights, source: WeightSource | None
) -> None:
    """Refuse an edit that would change anything but the pair and its source."""
    expected = tomllib.loads(before)
    fusion = expected.setdefault("fusion", {})
    fusion["weights"] = [weights.large_ins, weights.small_cpt]
    fusion.pop("source", None)
    if source is not None:
        fusion["source"] = source.as_table()
    try:
        fits = tomllib.loads(after) == expected
    except tomllib.TOMLDecodeError:
        fits = False
    if not fits:
        raise TrioConfigError(
            f"{path}: its [fusion] weights are not written on a line of their own: set them to "
            f"[{weights.large_ins!r}, {weights.small_cpt!r}] by hand"
        )
