"""Models of published shapes with random weights: as large as the real ones, and they load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize

from trimix_edge import ContextParams, FusionWeights, Role, TriMix, files
from trimix_edge.errors import DiskSpaceError, UsageError
from trimix_edge.hub.presets import presets_content
from trimix_edge.llama.quantize import quantize_rows
from trimix_edge.measure import synthetic
from trimix_edge.measure.synthetic import SyntheticModel, parse_synthetic

TINY = {"n_layer": 2, "n_embd": 256, "n_ff": 512, "n_head": 4, "n_head_kv": 2, "head_dim": 64,
        "n_vocab": 320}  # fmt: skip


@pytest.fixture
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes of each family that take no room."""
    shapes = {name: TINY for name in ("qwen2.5-1.5b", "qwen2.5-7b", "gemma-3-4b", "llama-2-7b")}
    monkeypatch.setattr(synthetic, "presets_content", lambda: {"shapes": shapes})


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0])
def test_rows_are_quantised_as_gguf_does(kind: GGMLQuantizationType) -> None:
    values = np.random.default_rng(3).normal(size=(5, 96)).astype(np.float32)
    values[2] = 0.0
    np.testing.assert_array_equal(quantize_rows(values, kind), quantize(values, kind).reshape(-1))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q6_K", "Q4_K", "Q5_K"])
def test_quantised_rows_mean_what_went_in(kind: str) -> None:
    type_ = GGMLQuantizationType[kind]
    values = np.random.default_rng(4).normal(size=(3, 512)).astype(np.float32)
    rows = quantize_rows(values, type_).reshape(3, -1)
    dtype = {"F32": np.float32, "F16": np.float16}.get(kind, np.uint8)
    back = dequantize(rows.view(dtype), type_).astype(np.float32)
    assert back.shape == values.shape
    bits = {"F32": 24, "F16": 10, "BF16": 7, "Q6_K": 5, "Q5_K": 4, "Q4_K": 3}[kind]
    assert np.abs(back - values).max() < 4 * 2.0**-bits


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q5_K_M", "Q8_0", "F16", "Q6_K", "Q4_0"])
@pytest.mark.parametrize("name", list(presets_content()["shapes"]))
def test_sizes_are_those_of_llama_cpps_quantiser(name: str, quantization: str) -> None:
    expected = presets_content()["sizes"][quantization][name]
    assert SyntheticModel(name, quantization).n_bytes / 1e6 == pytest.approx(expected, abs=0.5001)


def test_a_trio_is_read_from_text() -> None:
    found = parse_synthetic("qwen2.5-1.5b+7b:q4_k_m")
    assert found[Role.LARGE_INS] == SyntheticModel("qwen2.5-7b", "Q4_K_M")
    assert (
        found[Role.SMALL_CPT] == found[Role.SMALL_BASE] == SyntheticModel("qwen2.5-1.5b", "Q4_K_M")
    )
    assert parse_synthetic("gemma-3-4b+12b")[Role.LARGE_INS].quantization == "Q4_K_M"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "FAMILY-SMALL"),
        ("qwen2.5-1.5b", "FAMILY-SMALL"),
        ("qwen2.5-1.5b+", "FAMILY-SMALL"),
        ("qwen2.5-1.5b+8b", "the shapes are qwen2.5-1.5b, "),
        ("qwen9-1.5b+7b:Q8_0", "FAMILY-SMALL"),
        ("qwen2.5-1.5b+7b:Q9", "'Q9' is not one of Q4_K_M"),
        ("qwen2.5-1.5b+7b:IQ4_XS", "'IQ4_XS' is not one of"),
    ],
)
def test_a_trio_that_is_none_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        parse_synthetic(text)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("tiny_shapes")
@pytest.mark.parametrize("name", ["qwen2.5-1.5b", "qwen2.5-7b", "gemma-3-4b", "llama-2-7b"])
@pytest.mark.parametrize("quantization", ["Q4_K_M", "F32"])
def test_a_written_model_has_its_size_and_loads(
    tmp_path: Path, name: str, quantization: str
) -> None:
    model, path = SyntheticModel(name, quantization), tmp_path / "model.gguf"
    seen: list[tuple[int, int]] = []
    model.write(path, 1, lambda *progress: seen.append(progress))
    assert seen[-1] == (model.n_bytes, model.n_bytes)
    assert sum(int(t.n_bytes) for t in GGUFReader(path).tensors) == model.n_bytes
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]
    with TriMix.load(
        models={Role.LARGE_INS: path},
        weights=FusionWeights(1, 0),
        context=ContextParams(n_ctx=64, n_threads=1),
    ) as trimix:
        assert trimix.trio.n_vocab == TINY["n_vocab"]
        assert trimix.trio.vocab.token_bytes(trimix.tokenize("x")[0]) == b"x"
        assert len(trimix.generate("Save the file.", max_tokens=4).token_ids) >= 1


@pytest.mark.usefixtures("tiny_shapes")
def test_seeds_make_the_weights(tmp_path: Path) -> None:
    contents = []
    for i, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{i}.gguf"
        SyntheticModel("qwen2.5-7b", "Q8_0").write(path, seed)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_a_model_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda folder: 10**6)
    with pytest.raises(DiskSpaceError):
        SyntheticModel("qwen2.5-7b", "Q4_K_M").write(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
