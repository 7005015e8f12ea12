"""pytorch_model.bin: converted where PyTorch is, refused elsewhere, never executed."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file
from trimix_convert import CheckpointError, MissingDependencyError, convert_checkpoint


class Payload:
    """Runs a command when it is unpickled by anything that executes pickles."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


def test_without_pytorch_the_error_names_it(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint("trio")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match="pip install torch"):
        convert_checkpoint(folder, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_hostile_pickle_is_not_executed(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, witness = checkpoint("trio"), tmp_path / "owned"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises((CheckpointError, MissingDependencyError)):
        convert_checkpoint(folder, tmp_path / "m.gguf")
    assert not witness.exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_pickles_give_the_same_file(
    dtype: str, old_format: bool, sharded: bool, checkpoint: Any, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    folder = checkpoint("trio")
    weights = {
        name: tensor.to(getattr(torch, dtype))
        for name, tensor in load_torch(folder / "model.safetensors").items()
    }
    save_torch(weights, folder / "model.safetensors")
    convert_checkpoint(folder, tmp_path / "expected.gguf")
    (folder / "model.safetensors").unlink()
    names = list(weights)
    parts = [names[:4], names[4:]] if sharded else [names]
    weight_map: dict[str, str] = {}
    for i, part in enumerate(parts):
        file = f"pytorch_model-{i}.bin" if sharded else "pytorch_model.bin"
        torch.save(
            {name: weights[name] for name in part},
            folder / file,
            _use_new_zipfile_serialization=not old_format,
        )
        weight_map |= dict.fromkeys(part, file)
    if sharded:
        index = folder / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    convert_checkpoint(folder, tmp_path / "m.gguf")
    a, b = (
        {t.name: t.data.tobytes() for t in GGUFReader(tmp_path / name).tensors}
        for name in ("expected.gguf", "m.gguf")
    )
    assert a == b


@pytest.mark.parametrize("content", ["a list", "no tensor", "other keys"])
def test_anything_but_tensors_by_name_is_refused(
    content: str, checkpoint: Any, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    folder = checkpoint("trio")
    assert load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensor = torch.zeros(2)
    values = {"a list": [tensor], "no tensor": {"a": 3}, "other keys": {7: tensor}}
    torch.save(values[content], folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        convert_checkpoint(folder, tmp_path / "m.gguf")
