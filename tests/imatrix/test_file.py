"""Importance matrices in files: llama.cpp's layout, and files that were made to harm."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from trimix_edge.errors import ImatrixError
from trimix_edge.gguf import read_gguf
from trimix_edge.llama.imatrix_file import Entry, ImportanceMatrix, read_imatrix, write_imatrix


def small() -> ImportanceMatrix:
    entries = {
        "blk.0.b": Entry(np.arange(6, dtype=np.float32).reshape(2, 3), np.array([4, 0])),
        "blk.0.a": Entry(np.full((1, 5), 0.5, np.float32), np.array([9])),
    }
    return ImportanceMatrix(entries, ("dzo.txt", "eng.txt"), 3, 512)


def test_another_reader_finds_llama_cpp_s_keys_and_tensors(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "m.gguf", small())
    reader = GGUFReader(tmp_path / "m.gguf")
    told = {name: f.contents() for name, f in reader.fields.items() if name[:4] != "GGUF"}
    assert told == {
        "general.type": "imatrix",
        "imatrix.datasets": ["dzo.txt", "eng.txt"],
        "imatrix.chunk_count": 3,
        "imatrix.chunk_size": 512,
    }
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors) == [
        "blk.0.a.in_sum2", "blk.0.a.counts", "blk.0.b.in_sum2", "blk.0.b.counts",
    ]  # fmt: skip
    assert tensors["blk.0.a.in_sum2"].shape.tolist() == [5]
    assert tensors["blk.0.b.in_sum2"].shape.tolist() == [3, 2]
    assert tensors["blk.0.b.counts"].shape.tolist() == [1, 2]
    assert np.array_equal(tensors["blk.0.b.in_sum2"].data, small().entries["blk.0.b"].sums)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "m.gguf", small())
    again = read_imatrix(tmp_path / "m.gguf")
    assert (again.datasets, again.n_chunks, again.chunk_size) == (("dzo.txt", "eng.txt"), 3, 512)
    for name, entry in small().entries.items():
        assert np.array_equal(again.entries[name].sums, entry.sums)
        assert np.array_equal(again.entries[name].counts, entry.counts)


def test_means_are_sums_over_counts_and_ones_where_nothing_was_counted() -> None:
    assert small().entries["blk.0.b"].means().tolist() == [0.0, 0.25, 0.5, 1.0, 1.0, 1.0]


def test_every_truncated_file_is_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "m.gguf"
    write_imatrix(whole, small())
    data, short = whole.read_bytes(), tmp_path / "short.gguf"
    last = len(data) - 24  # the last tensor ends with padding
    for n in range(0, last, 7):
        short.write_bytes(data[:n])
        with pytest.raises(ImatrixError) as caught:
            read_imatrix(short)
        assert "\n" not in str(caught.value)
        assert str(short) in str(caught.value)


def test_every_damaged_byte_is_one_line_or_harmless(tmp_path: Path) -> None:
    whole, damaged = tmp_path / "m.gguf", tmp_path / "d.gguf"
    write_imatrix(whole, small())
    data = whole.read_bytes()
    n_refused = 0
    for i in range(len(data)):
        damaged.write_bytes(data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :])
        try:
            read_imatrix(damaged)
        except ImatrixError:
            n_refused += 1
    assert n_refused > len(data) // 4


@pytest.mark.parametrize(
    ("sums", "counts", "told"),
    [
        ([1.0, np.nan], [2.0], r"the sums of blk\.0\.x are not finite"),
        ([1.0, np.inf], [2.0], r"the sums of blk\.0\.x are not finite"),
        ([1.0, -1.0], [2.0], r"sums of squares of blk\.0\.x are negative"),
        ([1.0, 1.0], [-2.0], r"the counts of blk\.0\.x are out of range"),
        ([1.0, 1.0], [np.nan], r"the counts of blk\.0\.x are out of range"),
        ([1.0, 1.0], [1e30], r"the counts of blk\.0\.x are out of range"),
        ([1.0, 1.0, 1.0], [1.0, 1.0], r"blk\.0\.x has 3 sums for 2 counts"),
        ([1.0, 1.0], None, r"blk\.0\.x lacks its sums or its counts"),
    ],
)
def test_numbers_that_can_not_be_are_named(
    sums: list[float], counts: list[float] | None, told: str, tmp_path: Path
) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "m.gguf", "none")
    writer.add_string("general.type", "imatrix")
    writer.add_tensor("blk.0.x.in_sum2", np.array(sums, np.float32))
    if counts is not None:
        writer.add_tensor("blk.0.x.counts", np.array(counts, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ImatrixError, match=told):
        read_imatrix(tmp_path / "m.gguf")


def test_files_of_other_kinds_are_refused(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match=r"wide\.gguf is no importance matrix: make one with"):
        read_imatrix(wide)
    old = tmp_path / "old.dat"
    old.write_bytes(struct.pack("<ii", 1, 7) + b"blk.0.x")
    with pytest.raises(ImatrixError, match="older format is converted by llama-imatrix"):
        read_imatrix(old)
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ImatrixError, match=str(path)):
            read_imatrix(path)


def test_a_matrix_of_another_model_names_the_first_tensor_that_differs(
    wide: Path, matrix: Path
) -> None:
    head = read_gguf(wide)
    read_imatrix(matrix).check_model(head)
    made = read_imatrix(matrix)
    made.entries["blk.1.ffn_up.weight"] = Entry(np.ones((1, 255), np.float32), np.array([1]))
    with pytest.raises(ImatrixError, match=r"blk\.1\.ffn_up\.weight has 256 columns .* 255"):
        made.check_model(head)
    made = read_imatrix(matrix)
    made.entries["blk.2.ffn_up.weight"] = made.entries["blk.1.ffn_up.weight"]
    with pytest.raises(ImatrixError, match=r"wide\.gguf has no tensor blk\.2\.ffn_up\.weight"):
        made.check_model(head)
    made = read_imatrix(matrix)
    made.entries = {k: v for k, v in made.entries.items() if k.startswith("blk.0.")}
    with pytest.raises(ImatrixError, match=r"it has nothing for blk\.1\."):
        made.check_model(head)
