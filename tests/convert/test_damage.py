"""Random damage to any file of a checkpoint: a clear refusal or a file, nothing third."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trimix_convert import ConversionError, convert_checkpoint

JUNK = [None, [], {}, 7, 0, -1, 3.5, 1e300, 2**70, True, "", "x", "\ud800", [None], {"a": 1}]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every part of a JSON value; of long lists, to the first parts."""
    yield path
    if isinstance(value, dict):
        for key in list(value)[:40]:
            yield from nodes(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 6)):
            yield from nodes(value[i], (*path, i))


def damage_json(file: Path, rng: random.Random) -> None:
    """Replace one part by junk, or remove it."""
    content = json.loads(file.read_text("utf-8"))
    *above, last = rng.choice([path for path in nodes(content) if path])
    holder = content
    for key in above:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[last]
    else:
        holder[last] = rng.choice(JUNK)
    file.write_text(json.dumps(content), "utf-8")


def damage_bytes(file: Path, rng: random.Random) -> None:
    """Change a few bytes near the beginning, where headers are."""
    data = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(2000, len(data)))] = rng.randrange(256)
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["llama2", "llama3", "qwen2", "trio", "gemma3_multimodal"])
def test_random_damage_is_refused_in_one_line_or_harmless(
    name: str, checkpoint: Any, tmp_path: Path
) -> None:
    folder, target = checkpoint(name), tmp_path / "m.gguf"
    rng = random.Random(name)
    files = sorted(folder.iterdir())
    refusals: list[str] = []
    for _ in range(24):
        file = rng.choice(files)
        intact = file.read_bytes()
        if file.suffix == ".json":
            damage_json(file, rng)
        else:
            damage_bytes(file, rng)
        try:
            convert_checkpoint(folder, target)
        except ConversionError as error:
            refusals.append(str(error))
        file.write_bytes(intact)
        target.unlink(missing_ok=True)
    assert refusals
    assert [text for text in refusals if "\n" in text or len(text) > 500] == []
    assert sorted(folder.iterdir()) == files
    assert list(tmp_path.iterdir()) == [folder]
