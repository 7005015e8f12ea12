"""Quantising with an importance matrix: llama.cpp is handed what the file says."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader
from tiny_models import WORDS

from trimix_edge.cli import run
from trimix_edge.gguf import read_gguf
from trimix_edge.llama.calibration import CalibrationText
from trimix_edge.llama.imatrix import collect_imatrix
from trimix_edge.llama.imatrix_file import read_imatrix, write_imatrix
from trimix_edge.llama.quantize import quantize


@pytest.fixture(scope="module")
def matrix(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("matrix") / "m.gguf"
    text = "".join(np.random.RandomState(0).choice(WORDS, 400))
    collect_imatrix(wide, target, [CalibrationText("dzo.txt", text)], chunk_size=64)
    return target


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ3_M", "Q4_K_M"])
def test_the_weights_are_those_of_llama_cpp_with_the_same_matrix(
    name: str, wide: Path, matrix: Path, tmp_path: Path
) -> None:
    """The matrix is read by another reader here, and handed over by hand."""
    tensors = {t.name: np.array(t.data) for t in GGUFReader(matrix).tensors}
    names = [n.removesuffix(".in_sum2") for n in tensors if n.endswith(".in_sum2")]
    means = {n: (tensors[f"{n}.in_sum2"] / tensors[f"{n}.counts"]).reshape(-1) for n in names}
    data = (llama_cpp.llama_model_imatrix_data * (len(names) + 1))()
    for item, (weight, values) in zip(data, means.items(), strict=False):
        pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        item.name, item.data, item.size = weight.encode(), pointer, values.size
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    params.imatrix = data
    plain, ours = tmp_path / "plain.gguf", tmp_path / "ours.gguf"
    code = llama_cpp.llama_model_quantize(
        os.fsencode(wide), os.fsencode(plain), ctypes.byref(params)
    )
    assert code == 0
    quantize(wide, ours, name, imatrix=matrix)
    expected = {t.name: np.array(t.data) for t in GGUFReader(plain).tensors}
    for tensor in GGUFReader(ours).tensors:
        assert np.array_equal(tensor.data, expected[tensor.name]), tensor.name


def test_the_matrix_changes_the_weights_and_is_named(
    wide: Path, matrix: Path, tmp_path: Path
) -> None:
    quantize(wide, tmp_path / "without.gguf", "Q4_K_M")
    quantize(wide, tmp_path / "with.gguf", "Q4_K_M", imatrix=matrix)
    one, two = (GGUFReader(tmp_path / f"{n}.gguf").tensors for n in ("without", "with"))
    changed = {a.name for a, b in zip(one, two, strict=True) if not np.array_equal(a.data, b.data)}
    assert changed == set(read_imatrix(matrix).entries)
    told = read_gguf(tmp_path / "with.gguf").metadata
    assert told["quantize.imatrix.file"] == str(matrix)[:127]
    assert told["quantize.imatrix.dataset"] == "dzo.txt"
    assert told["quantize.imatrix.entries_count"] == len(changed)
    assert told["quantize.imatrix.chunks_count"] == read_imatrix(matrix).n_chunks


def test_a_bad_matrix_is_one_line_and_leaves_nothing(
    wide: Path, narrow: Path, matrix: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(matrix.read_bytes()[:-600])
    partly = tmp_path / "partly.gguf"
    made = read_imatrix(matrix)
    made.entries = {k: v for k, v in made.entries.items() if "attn_q" in k}
    write_imatrix(partly, made)
    target = tmp_path / "out.gguf"
    for model, file, told in (
        (narrow, matrix, "blk.0.ffn_down.weight has 128 columns in narrow.gguf, 256 in the matrix"),
        (wide, short, "truncated"),
        (wide, wide, "is no importance matrix"),
        (wide, tmp_path / "none.gguf", "none.gguf: No such file"),
        (wide, partly, "needs an importance matrix with sums for blk.0."),
    ):
        assert run(["quantize", str(model), str(target), "IQ2_XXS", "--imatrix", str(file)]) == 1
        err = capfd.readouterr().err
        assert told in err
        assert err.count("\n") == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["partly.gguf", "short.gguf"]
