"""The head of a GGUF file is read as gguf's own reader reads it, and never believed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantize.parts import split
from tiny_models import edit_gguf

from trimix_edge.cli import run
from trimix_edge.errors import ModelLoadError
from trimix_edge.gguf import LongArray, fingerprint, n_file_bytes, read_gguf
from trimix_edge.gguf.reader import LongString
from trimix_edge.llama.quantize import quantize
from trimix_edge.planning.summary import summarise


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(n_tensors: int = 0, n_pairs: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + body


def test_metadata_and_tensors_equal_those_of_the_gguf_package(wide: Path) -> None:
    ours, theirs = read_gguf(wide), GGUFReader(wide)
    for name, field in theirs.fields.items():
        if name.startswith("GGUF."):
            continue
        expected, value = field.contents(), ours.metadata[name]
        if isinstance(expected, list):
            assert value == tuple(expected) or value == LongArray(len(expected)), name
        else:
            assert value == expected, name
    assert [(t.name, t.shape, t.kind, t.n_bytes) for t in ours.tensors] == [
        (t.name, tuple(t.shape.tolist()), t.tensor_type.name, t.n_bytes) for t in theirs.tensors
    ]


def test_the_types_of_every_quantisation_are_known(wide: Path, tmp_path: Path) -> None:
    quantize(wide, tmp_path / "out.gguf", "Q2_0")
    assert "Q2_0" in {tensor.kind for tensor in read_gguf(tmp_path / "out.gguf").tensors}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_of_one_line_or_harmless(
    data: st.DataObject, wide: Path, tmp_path: Path
) -> None:
    content = bytearray(wide.read_bytes())
    n_head = len(content) - read_gguf(wide).n_tensor_bytes
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, n_head - 1))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    try:
        summarise(read_gguf(damaged))
    except ModelLoadError as error:
        assert str(damaged) in str(error)  # noqa: PT017 (it may also pass)
        assert len(str(error)) < 600  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "begins with b'PK"),
        (b"GGUF\x03", "ends inside its metadata"),
        (head(version=1), "version 1"),
        (head(version=3 << 24), "other byte order"),
        (head(n_tensors=1 << 60), "tensors"),
        (head(n_pairs=1 << 60), "metadata entries"),
        (head(n_pairs=1, body=struct.pack("<Q", 1 << 62)), "bytes in a key"),
        (head(n_pairs=1, body=text("a") + struct.pack("<I", 99)), "unknown type 99"),
        (head(n_pairs=1, body=text("a") + struct.pack("<IIQ", 9, 4, 1 << 60)), "items in an array"),
        (head(n_pairs=1, body=text("a") + struct.pack("<IIQ", 9, 8, 1 << 20)), "ends inside"),
        (head(n_pairs=1, body=text("a") + struct.pack("<IIQ", 9, 9, 2)), "unknown type 9"),
        (head(n_pairs=2, body=(text("a") + struct.pack("<IB", 0, 1)) * 2), "comes twice"),
        (head(n_pairs=1, body=text("k" * 2000) + struct.pack("<IB", 0, 1)), "2000 bytes in a key"),
        (head(1, body=text("t" * 64) + struct.pack("<I", 1)), "64 bytes in a tensor's name"),
        (head(n_tensors=1 << 17), "131072 tensors"),
        (head(1, body=text("t") + struct.pack("<I", 9)), "9 dimensions"),
        (head(1, body=text("t") + struct.pack("<IQQIQ", 2, 32, 0, 0, 0)), r"of shape (32, 0)"),
        (head(1, body=text("t") + struct.pack("<IQIQ", 1, 8, 77, 0)), "unknown type 77"),
        (head(1, body=text("t") + struct.pack("<IQIQ", 1, 33, 8, 0)), "can't be Q8_0"),
        (head(1, body=text("t") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0)), "can't be"),
        (head(1, body=text("t") + struct.pack("<IQIQ", 1, 64, 0, 1 << 63)), "truncated"),
    ],
)
def test_each_kind_of_damage_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        read_gguf(damaged)
    assert told in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        read_gguf(tmp_path / "nothing.gguf")
    with pytest.raises(ModelLoadError, match="is a directory"):
        read_gguf(tmp_path)


def many(n: int, value: bytes) -> bytes:
    return b"".join(text(f"key.{i}") + value for i in range(n))


@pytest.mark.parametrize(
    ("n", "value"),
    [
        (60, struct.pack("<I", 8) + text("x" * (1 << 20))),
        (1000, struct.pack("<IIQ", 9, 4, 1024) + bytes(4096)),
        (200, struct.pack("<IIQ", 9, 8, 1000) + text("long enough" * 20) * 1000),
    ],
    ids=["strings", "arrays of numbers", "arrays of strings"],
)
def test_metadata_take_a_bounded_part_of_memory(n: int, value: bytes, tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(head(n_pairs=n, body=many(n, value)))
    tracemalloc.start()
    with pytest.raises(ModelLoadError, match="metadata take more than 32 MiB"):
        read_gguf(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_long_string_and_a_long_array_are_walked_over_in_little_memory(tmp_path: Path) -> None:
    """Across the borders of the pieces that are read, with lengths of every residue."""
    words = [text("y" * (i % 97)) for i in range(300_000)]
    pairs = text("a") + struct.pack("<I", 8) + text("x" * (40 << 20))
    pairs += text("b") + struct.pack("<IIQ", 9, 8, len(words)) + b"".join(words)
    pairs += text("c") + struct.pack("<I", 8) + text("the end")
    path = tmp_path / "long.gguf"
    path.write_bytes(head(n_pairs=3, body=pairs))
    tracemalloc.start()
    metadata = read_gguf(path).metadata
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert metadata == {"a": LongString(40 << 20), "b": LongArray(300_000), "c": "the end"}
    assert peak < 4 << 20


def test_a_pipe_is_not_opened_as_it_would_never_answer(wide: Path, tmp_path: Path) -> None:
    first, second = split(wide, tmp_path)
    second.unlink()
    os.mkfifo(second)
    with pytest.raises(ModelLoadError, match=r"00002-of-00002.gguf is not a regular file"):
        read_gguf(first)


def test_parts_must_belong_together(wide: Path, tmp_path: Path) -> None:
    first, second = split(wide, tmp_path)
    whole = second.read_bytes()
    shutil.copy(first, second)
    with pytest.raises(ModelLoadError, match="does not say that it is part 2 of 2"):
        read_gguf(first)
    second.write_bytes(whole[: len(whole) - 64])
    with pytest.raises(ModelLoadError, match=r"00002-of-00002.gguf is truncated"):
        read_gguf(first)
    assert n_file_bytes(first) == first.stat().st_size + second.stat().st_size


def test_the_fingerprint_of_a_model_is_that_of_all_its_parts(wide: Path, tmp_path: Path) -> None:
    first, second = split(wide, tmp_path)
    before = fingerprint(first)
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes(data)
    assert fingerprint(first) != before


def test_parts_are_read_as_one_and_can_be_joined(wide: Path, tmp_path: Path) -> None:
    first, second = split(wide, tmp_path)
    whole, parts = read_gguf(wide), read_gguf(first)
    assert parts.n_parts == 2
    assert {t.name: t.n_bytes for t in parts.tensors} == {t.name: t.n_bytes for t in whole.tensors}
    quantize(first, tmp_path / "joined.gguf", "COPY")
    assert len(read_gguf(tmp_path / "joined.gguf").tensors) == len(whole.tensors)
    with pytest.raises(ModelLoadError, match=r"part 2 of 2: name the first, m-00001-of-00002"):
        read_gguf(second)
    second.unlink()
    with pytest.raises(ModelLoadError, match=r"m-00002-of-00002.gguf is missing"):
        read_gguf(first)
    shutil.move(first, tmp_path / "renamed.gguf")
    with pytest.raises(ModelLoadError, match=r"NAME-00001-of-00002.gguf"):
        read_gguf(tmp_path / "renamed.gguf")


def inspected(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["inspect", "--json", *arguments]) == 0
    facts: dict[str, Any] = json.loads(capfd.readouterr().out)
    return facts


def test_inspect_tells_the_facts(
    wide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.gguf"
    quantize(wide, small, "Q4_K_M")
    facts = inspected(capfd, str(small), "--ctx", "256")
    assert facts["architecture"] == "llama"
    assert facts["quantization"] == "Q4_K_M"
    assert facts["n_bytes"] == small.stat().st_size
    assert facts["vocabulary"] == {"model": "gpt2", "pre": "gpt-2", "n_tokens": 384}
    assert facts["chat_template"].startswith("{% for")
    assert facts["n_ctx_train"] == 512
    assert facts["memory"]["kv_cache"] == 256 * 2 * 32 * 2  # tokens, key and value, width, f16
    groups = {group["name"]: group for group in facts["groups"]}
    assert groups["ffn_down"]["types"] == {"Q6_K": 1}
    assert sum(group["n_bytes"] for group in facts["groups"]) == facts["memory"]["weights"]
    halved = inspected(capfd, str(small), "--ctx", "256", "--kv-type", "q8_0")
    assert halved["memory"]["kv_cache"] == 256 * 2 * 32 * 34 // 32


def test_inspect_shows_a_table_that_a_terminal_does_not_obey(
    wide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named = edit_gguf(wide, tmp_path / "x.gguf", {"general.name": "\x1b]0;owned\x07[bold]name"})
    assert run(["inspect", str(named)]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "[bold]name" in out
    assert "ffn_down" in out
    assert run(["inspect", str(tmp_path / "none.gguf")]) == 1
    assert capfd.readouterr().err == f"trimix-edge: {tmp_path}/none.gguf: no such file\n"
