"""What is written: types, values, the report and the progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from trimix_convert import ConversionError, convert_checkpoint
from trimix_convert.arch.base import InterleaveHalves
from trimix_convert.encode import as_float32, encode, is_finite

KINDS = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
}


@pytest.mark.parametrize("outtype", KINDS)
def test_matrices_take_the_outtype_and_vectors_stay_float32(
    outtype: str, checkpoint: Any, tmp_path: Path
) -> None:
    folder, target = checkpoint("trio"), tmp_path / "m.gguf"
    report = convert_checkpoint(folder, target, outtype=outtype)
    reader = GGUFReader(target)
    weights = load_file(folder / "model.safetensors")
    for tensor in reader.tensors:
        vector = len(tensor.shape) == 1
        assert tensor.tensor_type == (KINDS["f32"] if vector else KINDS[outtype])
    embedding = next(t for t in reader.tensors if t.name == "token_embd.weight")
    expected = quantize(weights["model.embed_tokens.weight"], KINDS[outtype])
    np.testing.assert_array_equal(embedding.data.view(np.uint8), expected.view(np.uint8))
    assert report.n_tensors == len(reader.tensors)
    assert report.n_parameters == sum(array.size for array in weights.values())
    assert report.n_bytes == target.stat().st_size
    assert report.outtype == outtype


@pytest.mark.parametrize("outtype", ["F32", "F16", "BF16", "Q8_0", "q8_0", "Bf16", " AUTO "])
def test_names_of_types_are_llama_cpps_in_any_case(
    outtype: str, checkpoint: Any, tmp_path: Path
) -> None:
    folder, plain = checkpoint("trio"), outtype.strip().lower()
    report = convert_checkpoint(folder, tmp_path / "a.gguf", outtype=outtype)
    convert_checkpoint(folder, tmp_path / "b.gguf", outtype=plain)
    assert report.outtype == ("f16" if plain == "auto" else plain)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize(
    ("name", "outtype"), [("llama2", "f16"), ("llama3", "bf16"), ("trio", "f16")]
)
def test_auto_follows_the_checkpoint(
    name: str, outtype: str, checkpoint: Any, tmp_path: Path
) -> None:
    assert convert_checkpoint(checkpoint(name), tmp_path / "m.gguf").outtype == outtype


def test_unknown_outtype(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    refuse(checkpoint("trio"), tmp_path / "m.gguf", ConversionError, "q3_x", "q8_0", outtype="q3_x")


def test_rows_q8_0_does_not_divide_fall_back_to_float16(checkpoint: Any, tmp_path: Path) -> None:
    folder, target = checkpoint("qwen3"), tmp_path / "m.gguf"
    shrink_feed_forward(folder, 24)
    report = convert_checkpoint(folder, target, outtype="q8_0")
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(target).tensors}
    assert kinds["blk.0.ffn_down.weight"] == KINDS["f16"]
    assert kinds["blk.0.ffn_up.weight"] == KINDS["q8_0"]
    (note,) = [note for note in report.notes if "Q8_0" in note]
    assert "blk.0.ffn_down.weight" in note


def shrink_feed_forward(folder: Path, width: int) -> None:
    from safetensors.numpy import save_file

    weights = load_file(folder / "model.safetensors")
    for name, array in weights.items():
        if ".mlp.down_proj" in name:
            weights[name] = np.ascontiguousarray(array[:, :width])
        elif ".mlp." in name:
            weights[name] = array[:width]
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = width
    (folder / "config.json").write_text(json.dumps(config))


def test_progress_rises_to_the_whole(checkpoint: Any, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    convert_checkpoint(
        checkpoint("qwen2"), tmp_path / "m.gguf", progress=lambda *bytes_: heard.append(bytes_)
    )
    done = [done for done, _ in heard]
    assert done == sorted(done)
    assert {total for _, total in heard} == {done[-1]}
    assert done[-1] > 50_000


def test_source_is_not_written_to(checkpoint: Any, tmp_path: Path) -> None:
    folder = checkpoint("gemma3")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    convert_checkpoint(folder, tmp_path / "m.gguf")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_sharded_and_single_give_the_same_file(checkpoint: Any, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = checkpoint("llama2")
    convert_checkpoint(folder, tmp_path / "sharded.gguf")
    merged: dict[str, npt.NDArray[Any]] = {}
    for path in sorted(folder.glob("model-*.safetensors")):
        merged |= load_file(path)
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(merged, folder / "model.safetensors")
    convert_checkpoint(folder, tmp_path / "single.gguf")
    a, b = (
        {t.name: t.data.tobytes() for t in GGUFReader(tmp_path / name).tensors}
        for name in ("sharded.gguf", "single.gguf")
    )
    assert a == b


bits = hnp.arrays(np.uint16, hnp.array_shapes(min_dims=1, max_dims=2, max_side=40))
finite = hnp.arrays(np.float32, (3, 64), elements=st.floats(width=32, allow_nan=False))


@settings(deadline=None)
@given(bits)
def test_bfloat16_widens_exactly(block: npt.NDArray[np.uint16]) -> None:
    wide = as_float32(block, "BF16")
    expected = np.array([int(b) << 16 for b in block.ravel()], np.uint32).view(np.float32)
    np.testing.assert_array_equal(wide.ravel().view(np.uint32), expected.view(np.uint32))


@settings(deadline=None)
@given(bits)
def test_finiteness_is_that_of_the_float(block: npt.NDArray[np.uint16]) -> None:
    assert is_finite(block, "BF16") == np.isfinite(as_float32(block, "BF16")).all()


@settings(deadline=None)
@given(finite)
def test_bfloat16_rounds_to_nearest_even(block: npt.NDArray[np.float32]) -> None:
    encoded = encode(block, "F32", KINDS["bf16"]).view(np.uint16)
    for value, got in zip(block.ravel(), encoded.ravel(), strict=True):
        raw = int(value.view(np.uint32))
        low, high = raw >> 16, raw & 0xFFFF
        up = high > 0x8000 or (high == 0x8000 and low & 1)
        assert int(got) == low + up


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 64), elements=st.floats(-1000, 1000, width=32)))
def test_q8_0_is_within_half_a_step(block: npt.NDArray[np.float32]) -> None:
    encoded = encode(block, "F32", KINDS["q8_0"])
    decoded = dequantize(encoded, KINDS["q8_0"]).reshape(2, 2, 32)
    blocks = block.reshape(2, 2, 32)
    step = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    # Half a step for rounding, and what the step itself loses as a float16.
    assert (np.abs(decoded - blocks) <= 0.5 * step * 1.001 + 128 * (step * 2**-11 + 2**-24)).all()


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 3))
def test_interleaved_halves_are_llama_cpps_order(heads: int, pairs: int, width: int) -> None:
    head_dim = 2 * pairs
    rows = np.arange(heads * head_dim * width, dtype=np.float32).reshape(-1, width)
    moved, dtype = InterleaveHalves(head_dim)(rows, "F32")
    assert dtype == "F32"
    for head in range(heads):
        for i in range(pairs):
            for half in range(2):
                source = head * head_dim + half * pairs + i
                target = head * head_dim + 2 * i + half
                np.testing.assert_array_equal(moved[target], rows[source])
