"""Whose work a bundle holds, and under which licences: it is handed on to others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from trimix_edge.bundling.trio import TrioFiles
from trimix_edge.bundling.wheels import Wheel
from trimix_edge.bundling.writing import Entry
from trimix_edge.gguf import GgufFile

FOLDER = "licences"
OVERVIEW = f"{FOLDER}/README.txt"
_MAX_FILES = 100
_HOMES = ("homepage", "home", "source", "source code", "repository", "github", "documentation")
_FACTS = ("name", "author", "organization", "license", "license.name", "license.link", "url",
          "repo_url", "source.url", "source.repo_url", "base_model.0.name",
          "base_model.0.organization", "base_model.0.repo_url")  # fmt: skip


def licence_entries(
    trio: TrioFiles, wheels: Collection[Wheel], others: Collection[Path]
) -> list[Entry]:
    """An overview, and the licence texts out of the wheels and beside them."""
    lines = [
        "Who made what is in this folder, and what may be done with it.",
        "",
        "THE MODELS",
        f"as the trio {plain(trio.manifest.name)!r} and its files tell it:",
    ]
    for name, head in trio.heads.items():
        facts = list(_facts(head))
        lines += ["", f"{name}.gguf", *(f"  {key}: {value}" for key, value in facts)]
        if not any("license" in key for key, _ in facts):
            lines.append("  The file names no licence: see the comments in trio/trio.toml and the")
            lines.append("  texts beside it, or ask where the file comes from.")
    texts = [e.name for e in trio.entries if e.name.count(".") == 0 or e.name.endswith(("md", "t"))]
    if texts:
        lines += ["", f"Read {', '.join(texts)} too."]
    lines += ["", "THE PROGRAMS", "Their licence texts are in the folders beside this file.", ""]
    entries = []
    for wheel in _distinct(wheels):
        folder = f"{FOLDER}/{wheel.name}-{wheel.version}"
        files = list(_texts(wheel, folder))
        entries += files
        lines.append(f"{wheel.name} {wheel.version}: {plain(wheel.licence())}")
        if home := _home(wheel):
            lines.append(f"  {home}")
        if not files:
            lines.append("  Its wheel holds no licence text.")
    for path in others:
        entries.append(Entry(f"{FOLDER}/{path.name}", path))
        lines.append(f"{path.name.partition('.')[2]}, inside of those: {path.name}")
    return [Entry(OVERVIEW, ("\n".join(lines) + "\n").encode()), *entries]


def plain(text: str) -> str:
    """A stranger's text in one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()


def _facts(head: GgufFile) -> Iterable[tuple[str, str]]:
    """What a GGUF file says of its origin."""
    for key in _FACTS:
        if value := head.get(f"general.{key}", str):
            yield key, plain(value)


def _distinct(wheels: Collection[Wheel]) -> list[Wheel]:
    """One wheel of each version: those for several versions of Python have the same licence."""
    return list({(w.name, w.version): w for w in sorted(wheels, key=lambda w: w.name)}.values())


def _texts(wheel: Wheel, folder: str) -> Iterable[Entry]:
    taken: set[str] = set()
    for name, content in wheel.licence_files():
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")[:80] or "LICENSE"
        number = sum(1 for other in taken if other.startswith(safe))
        unique = f"{number + 1}-{safe}" if safe in taken else safe
        if unique in taken or len(taken) >= _MAX_FILES:
            continue
        taken.add(unique)
        yield Entry(f"{folder}/{unique}", content)


def _home(wheel: Wheel) -> str:
    """The project's address, as its metadata names it."""
    if page := wheel.metadata.get("Home-page"):
        return plain(str(page))
    urls = dict(
        str(u).split(", ", 1) for u in wheel.metadata.get_all("Project-URL") or () if ", " in u
    )
    by_label = {label.lower(): url for label, url in urls.items()}
    found = (by_label[label] for label in _HOMES if label in by_label)
    return plain(next(found, ""))
