"""The tensors of a checkpoint: one file or several, safetensors or pickles; none is read yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .config import read_json
from .errors import CheckpointError
from .pickles import read_pickle
from .safetensors import read_safetensors
from .tensor import Tensor


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in `folder`, by its name, none of them read yet.

    Looks for one safetensors file, then for an index of several, then for the pickles of
    `torch.save`, which need PyTorch. Raises CheckpointError, MissingDependencyError.
    """
    for stem, suffix, read in (
        ("model", ".safetensors", read_safetensors),
        ("pytorch_model", ".bin", read_pickle),
    ):
        if (folder / f"{stem}{suffix}").is_file():
            return read(folder / f"{stem}{suffix}")
        if (folder / f"{stem}{suffix}.index.json").is_file():
            return _read_shards(folder, stem, suffix, read)
    raise CheckpointError(
        f"no weights in {folder}: expected model.safetensors, "
        "model.safetensors.index.json or pytorch_model.bin"
    )


def _read_shards(
    folder: Path, stem: str, suffix: str, read: Callable[[Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """All tensors of a checkpoint in several files, checked against its index."""
    index = folder / f"{stem}{suffix}.index.json"
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map'")
    for shard in weight_map.values():
        _check_shard_name(index, shard)
    shards = sorted(set(weight_map.values()))
    extra = {path.name for path in folder.glob(f"{stem}-*-of-*{suffix}")} - set(shards)
    if extra:
        raise CheckpointError(f"extra shard: {folder / min(extra)}, not named in {index.name}")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not (folder / shard).is_file():
            raise CheckpointError(f"missing shard: {folder / shard}, named in {index.name}")
        for name, tensor in read(folder / shard).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(f"{folder / shard} holds {name!r:.120} against {index.name}")
            tensors[name] = tensor
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(
            f"{folder / weight_map[missing[0]]} lacks {missing[0]!r:.120}, "
            f"which {index.name} says it holds ({len(missing)} tensors missing in all)"
        )
    return tensors


def _check_shard_name(index: Path, shard: Any) -> None:
    """A shard is a plain file name: anything with a folder in it could point anywhere."""
    if (
        not isinstance(shard, str)
        or not shard
        or shard in (".", "..")
        or any(separator in shard for separator in ("/", "\\", "\0", ":"))
    ):
        raise CheckpointError(f"{index}: shard name {str(shard)[:80]!r} points outside the folder")
