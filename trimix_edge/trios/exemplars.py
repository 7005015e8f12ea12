"""Exemplars of a trio: pairs that come before a prompt, to show what is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from trimix_edge.errors import TrioConfigError
from trimix_edge.trios.manifest import TrioManifest

MAX_BYTES = 1 << 20


class Exemplar(NamedTuple):
    """A prompt and its answer."""

    prompt: str
    answer: str


def read_exemplars(manifest: TrioManifest, n: int) -> list[Exemplar]:
    """The first ``n`` exemplars of the file that a manifest names: a line each, the prompt, a tab
    and the answer.

    Raises:
        TrioConfigError: the manifest names no file, or one outside its folder, or one that is
            missing, too large or not of that form, or that holds fewer.
    """
    if manifest.exemplars is None:
        raise TrioConfigError(
            f"{manifest.name} has no exemplars: name a file of pairs in its trio.toml, as in "
            f'exemplars = "exemplars.tsv", or give no shots'
        )
    path = manifest.exemplars
    _check_place(path, manifest.path.parent if manifest.path else path.parent)
    found = _parse(path, _read(path))
    if not 0 <= n <= len(found):
        raise TrioConfigError(f"{path} holds {len(found)} exemplars: {n} shots are too many")
    return found[:n]


def _check_place(path: Path, folder: Path) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise TrioConfigError(f"exemplars: {path} is outside the trio's folder: put it inside")
    if not path.is_file():
        raise TrioConfigError(f"exemplars: {path} is no file")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TrioConfigError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise TrioConfigError(f"{path} is larger than 1 MiB: keep a few exemplars")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrioConfigError(f"{path} is not UTF-8: byte {error.start} is invalid") from None


def _parse(path: Path, text: str) -> list[Exemplar]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise TrioConfigError(f"{path}, line {number}: not a prompt, one tab and an answer")
        found.append(Exemplar(*parts))
    return found


def conversation(exemplars: Iterable[Exemplar], prompt: str) -> list[dict[str, str]]:
    """Messages: a turn for each prompt and answer, and the prompt that is to be answered."""
    turns = []
    for exemplar in exemplars:
        turns.append({"role": "user", "content": exemplar.prompt})
        turns.append({"role": "assistant", "content": exemplar.answer})
    return [*turns, {"role": "user", "content": prompt}]
