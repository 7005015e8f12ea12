"""The files of a trio, under names of our own.

A manifest may come from a stranger: what it calls its files is used to find them, and for nothing
else. In the bundle a file is called like its role.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimix_edge.bundling.writing import Entry
from trimix_edge.errors import BundleError
from trimix_edge.gguf import GgufFile, check_header, part_paths
from trimix_edge.gguf.split import part_name
from trimix_edge.trios.exemplars import read_exemplars
from trimix_edge.trios.manifest import BOM, MANIFEST, TrioManifest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = "trio"
_MAX_CARD = 1 << 20
_EXEMPLARS = "exemplars.tsv"


@dataclass(frozen=True)
class TrioFiles:
    """What of a trio goes along.

    Attributes:
        name: in letters, digits and hyphens, for names of files.
        heads: of the models and adapters, by their name in the bundle.
    """

    name: str
    manifest: TrioManifest
    entries: tuple[Entry, ...]
    heads: Mapping[str, GgufFile]


def trio_files(manifest: TrioManifest) -> TrioFiles:
    """Find and check the files of a trio, and write its manifest anew.

    Raises:
        BundleError: a role lacks its file, or the manifest can't be written anew.
        ModelLoadError: a file is missing or damaged.
    """
    if manifest.path is None:
        raise BundleError("a bundle is made of a trio: name a trio.toml, its folder, or its name")
    names: dict[Path, str] = {}
    entries: list[Entry] = []
    heads: dict[str, GgufFile] = {}
    for role, path in sorted(_paths(manifest).items()):
        real = path.resolve()
        if real in names:  # one file for two roles travels once
            continue
        heads[role] = check_header(path)
        parts = part_paths(path)
        count = len(parts)
        called = (
            [f"{role}.gguf"]
            if count == 1
            else [part_name(role, n, count) for n in range(1, count + 1)]
        )
        entries += [
            Entry(f"{FOLDER}/{name}", part) for name, part in zip(called, parts, strict=True)
        ]
        names[real] = called[0]
    text = _renamed(manifest, names)
    entries.append(Entry(f"{FOLDER}/{MANIFEST}", text.encode()))
    if manifest.exemplars is not None:
        read_exemplars(manifest, 0)  # checked: it may be a stranger's
        entries.append(Entry(f"{FOLDER}/{_EXEMPLARS}", manifest.exemplars))
    entries += _texts(manifest.path.parent)
    return TrioFiles(slug(manifest.name), manifest, tuple(entries), heads)


def slug(name: str) -> str:
    """A name for a folder, whatever the manifest calls itself."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return plain or "trio"


def _paths(manifest: TrioManifest) -> dict[str, Path]:
    """The files by the role whose name they get; an adapter's ends in ``-lora``."""
    return {
        **{role.value: path for role, path in manifest.models.items()},
        **{f"{role.value}-lora": a.path for role, a in manifest.adapters.items()},
    }


def _texts(folder: Path) -> list[Entry]:
    """Model card, licences and notices that lie beside the manifest."""
    found = sorted(
        path
        for path in folder.iterdir()
        if re.fullmatch(r"(README|LICEN[CS]E|NOTICE|COPYING)(\.(md|txt))?", path.name)
        and path.is_file()
        and path.stat().st_size <= _MAX_CARD
    )
    return [Entry(f"{FOLDER}/{path.name}", path.read_bytes()) for path in found]


def _renamed(manifest: TrioManifest, names: Mapping[Path, str]) -> str:
    """The manifest with the names of the bundle, and the comments at its head.

    Raises:
        BundleError: what was written would not be read as the same trio.
    """
    assert manifest.path is not None
    try:
        before = manifest.path.read_text(encoding="utf-8").removeprefix(BOM)
        content = tomllib.loads(before)
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest.path}: {error}") from None
    models = {role.value: names[path.resolve()] for role, path in manifest.models.items()}
    adapters = {
        role.value: {"model": a.base.value, "lora": names[a.path.resolve()]}
        for role, a in manifest.adapters.items()
    }
    content["models"] = {**models, **adapters}
    content["name"] = manifest.name
    if manifest.exemplars is not None:
        content["exemplars"] = _EXEMPLARS
    head = re.match(r"(?:[ \t]*(?:#[^\n]*)?\n)*", before)
    comments = [line.strip() for line in head[0].splitlines() if line.strip()] if head else []
    text = "\n".join([*comments, *_toml(content)]) + "\n"
    if tomllib.loads(text) != content:
        raise BundleError(f"{manifest.path} holds what can't be written again: simplify it")
    return text


def _toml(content: Mapping[str, Any]) -> list[str]:
    """Tables of values, and tables in them in one line each."""
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = [f"{_key(k)} = {_value(v)}" for k, v in content.items() if k not in tables]
    for name, table in tables.items():
        lines += ["", f"[{_key(name)}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items())]
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    return repr(value)


def _text(text: str) -> str:
    """JSON's escapes are among TOML's, which wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
