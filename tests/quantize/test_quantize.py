"""llama.cpp's quantiser behind trimix-edge quantize: right results, or one clear line."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import llama_cpp
import pytest
from gguf import GGUFReader
from tiny_models import edit_gguf

from trimix_edge.cli import run
from trimix_edge.errors import (
    DiskSpaceError,
    ModelLoadError,
    QuantizeError,
    TargetError,
    UsageError,
)
from trimix_edge.gguf import read_gguf
from trimix_edge.llama import quantize as module
from trimix_edge.llama.quantize import parse_quantization, quantizations, quantize
from trimix_edge.planning.summary import summarise


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_name_is_one_of_llama_cpp() -> None:
    names = quantizations()
    assert names["Q4_K_M"] == llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    assert names["F32"] == llama_cpp.LLAMA_FTYPE_ALL_F32
    assert {"Q4_0", "Q8_0", "IQ4_XS", "TQ2_0", "BF16", "COPY"} <= names.keys()
    assert not names.keys() & {"GUESSED", "NVFP4"}
    assert parse_quantization("q4_k") == "Q4_K_M"
    assert [parse_quantization(name) for name in ("fp16", "Half", "float32")] == ["F16"] * 2 + [
        "F32"
    ]


def test_llama_cpp_takes_every_name(wide: Path, tmp_path: Path) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.dry_run = True
    for name, ftype in quantizations().items():
        params.ftype = ftype
        code = llama_cpp.llama_model_quantize(os.fsencode(wide), b"unused", ctypes.byref(params))
        assert code == 0, name


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "q5_k_m", "IQ4_XS", "TQ2_0", "COPY"])
def test_a_file_of_each_kind(name: str, wide: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    report = quantize(wide, target, name)
    assert summarise(read_gguf(target)).quantization == ("F32" if name == "COPY" else name.upper())
    assert report.n_bytes == target.stat().st_size
    assert leftovers(tmp_path) == ["out.gguf"]


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_M", "IQ3_XXS", "IQ1_S", "Q2_K_S"])
def test_a_type_that_needs_an_importance_matrix_says_how_to_make_one(
    name: str, wide: Path, tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError) as caught:
        quantize(wide, tmp_path / "out.gguf", name)
    told = str(caught.value)
    assert told.startswith(f"{name} needs an importance matrix: make one with trimix-edge imatrix")
    assert f"{wide} --text FILE --out wide.imatrix.gguf" in told
    assert leftovers(tmp_path) == []


def test_the_bytes_are_those_of_llama_cpp(wide: Path, tmp_path: Path) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    plain = tmp_path / "plain.gguf"
    code = llama_cpp.llama_model_quantize(
        os.fsencode(wide), os.fsencode(plain), ctypes.byref(params)
    )
    assert code == 0
    quantize(wide, tmp_path / "ours.gguf", "q4_k_m")
    assert (tmp_path / "ours.gguf").read_bytes() == plain.read_bytes()


def test_progress_counts_the_bytes_of_the_input(wide: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    quantize(wide, tmp_path / "o.gguf", "Q8_0", on_progress=lambda *n: heard.append(n))
    total = read_gguf(wide).n_tensor_bytes
    assert heard[-1] == (total, total)
    assert heard == sorted(heard)
    assert len(heard) == len(read_gguf(wide).tensors)


def test_rows_that_the_type_does_not_divide_get_another_type_and_one_line(
    narrow: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.gguf"
    report = quantize(narrow, target, "Q4_K_M")
    assert "blk.0.attn_q.weight" in report.fallbacks
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(target).tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q5_0"
    n_as = {
        kind: sum(kinds[name] == kind for name in report.fallbacks) for kind in ("Q5_0", "Q8_0")
    }
    (note,) = report.notes
    assert note.startswith(f"{len(report.fallbacks)} tensors have rows that are no multiple of 256")
    assert note.endswith(f"llama.cpp stores {n_as['Q5_0']} as Q5_0, {n_as['Q8_0']} as Q8_0")
    for older in ([], ["--allow-fallback"]):
        assert run(["quantize", str(narrow), str(target), "q4_k_m", "--force", *older]) == 0
        assert capfd.readouterr().out.count(note) == 1


@pytest.mark.parametrize("name", ["m.safetensors", "m.bin", "m.pth"])
def test_a_target_that_is_named_as_a_checkpoint_is_refused(
    name: str, wide: Path, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match=r"call it NAME\.gguf"):
        quantize(wide, tmp_path / name, "Q8_0")
    assert leftovers(tmp_path) == []


def test_quantising_twice_needs_a_word(wide: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"
    quantize(wide, once, "Q8_0")
    with pytest.raises(QuantizeError, match=r"quantised already .q8_0.*--allow-requantize"):
        quantize(once, twice, "Q4_K_M")
    assert not twice.exists()
    quantize(once, twice, "Q4_K_M", allow_requantize=True)
    assert read_gguf(twice).n_bytes < read_gguf(once).n_bytes


def test_a_target_that_exists_stays(wide: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_text("precious")
    with pytest.raises(TargetError, match="--force"):
        quantize(wide, target, "Q8_0")
    assert target.read_text() == "precious"
    quantize(wide, target, "Q8_0", overwrite=True)
    assert target.read_bytes()[:4] == b"GGUF"


def test_a_file_can_not_be_quantised_onto_itself(wide: Path) -> None:
    before = wide.read_bytes()
    with pytest.raises(QuantizeError, match="onto itself"):
        quantize(wide, wide, "Q8_0", overwrite=True)
    assert wide.read_bytes() == before


def test_no_room_is_told_before_anything_is_written(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimix_edge.files.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskSpaceError, match=r"needs \d.* MB in .*, 0.0 MB are free"):
        quantize(wide, tmp_path / "out.gguf", "Q8_0")
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp does not notice every failed write: a limit on the file's size stands for it."""
    worker = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (100_000, 100_000));"
    worker += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    monkeypatch.setattr(module, "_WORKER", worker + module._WORKER)
    with pytest.raises(QuantizeError):
        quantize(wide, tmp_path / "out.gguf", "Q8_0")
    assert leftovers(tmp_path) == []


def test_a_truncated_file(wide: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(wide.read_bytes()[:-5000])
    with pytest.raises(ModelLoadError, match=r"truncated: '.*' ends at byte"):
        quantize(short, tmp_path / "out.gguf", "Q8_0")
    assert leftovers(tmp_path) == ["short.gguf"]


@pytest.mark.parametrize(
    ("changes", "drop", "told"),
    [
        ({"llama.block_count": 2_000_000_000}, "\0", r"ended by SIGABRT \(GGML_ASSERT\(.*damaged"),
        ({}, "llama.", r"key not found in model: llama\.context_length"),
        ({"general.architecture": "no-such-thing"}, "\0", r"unknown model architecture"),
        ({"split.count": 3}, "\0", r"part 1 of 3"),
    ],
    ids=["too many layers", "no hyperparameters", "architecture", "split"],
)
def test_hostile_metadata_is_one_line_and_no_crash(
    changes: dict[str, object], drop: str, told: str, wide: Path, tmp_path: Path
) -> None:
    hostile = edit_gguf(wide, tmp_path / "hostile.gguf", changes, drop=drop)
    with pytest.raises((QuantizeError, ModelLoadError), match=told) as caught:
        quantize(hostile, tmp_path / "out.gguf", "Q4_K_M")
    assert str(caught.value).startswith(str(hostile))
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == ["hostile.gguf"]


def test_a_crash_of_llama_cpp_is_one_line(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, signal; os.write(1, b'GGML_ASSERT(x > 0) failed\\n'); os.abort()"
    monkeypatch.setattr(module, "_WORKER", crash)
    with pytest.raises(QuantizeError, match=r"SIGABRT \(GGML_ASSERT\(x > 0\) failed\)"):
        quantize(wide, tmp_path / "out.gguf", "Q8_0")
    assert leftovers(tmp_path) == []


def test_adapters_and_unknown_types_are_refused(wide: Path, tmp_path: Path) -> None:
    adapter = edit_gguf(wide, tmp_path / "a.gguf", {"general.type": "adapter"}, drop="general.type")
    with pytest.raises(ModelLoadError, match="only models can be quantised"):
        quantize(adapter, tmp_path / "out.gguf", "Q8_0")
    with pytest.raises(UsageError, match=r"'Q4_K_X': use one of .*Q4_K_M"):
        quantize(wide, tmp_path / "out.gguf", "Q4_K_X")


def test_ctrl_c_leaves_nothing_behind(wide: Path, tmp_path: Path) -> None:
    """The quantiser is stopped where it has written half of the file."""
    slow = (
        "import sys; from trimix_edge.llama import quantize as q;"
        "q._WORKER = 'import sys, time; print(\\'ready to write\\', flush=True);'"
        "'open(bytes.fromhex(sys.stdin.readline()), \\'wb\\').write(b\\'x\\'); time.sleep(60)';"
        "from trimix_edge.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["quantize", str(wide), str(tmp_path / "out.gguf"), "--type", "Q8_0"]
    with subprocess.Popen([sys.executable, "-c", slow, *arguments]) as process:
        deadline = time.monotonic() + 60
        while not any(leftovers(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert leftovers(tmp_path)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert leftovers(tmp_path) == []


def test_the_command_line_tells_what_it_did(
    wide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.gguf"
    assert run(["quantize", str(wide), str(target), "--type", "q4_k_m"]) == 0
    out, err = capfd.readouterr()
    assert str(target) in out
    assert "Q4_K_M" in out
    assert err == ""
    assert run(["quantize", str(wide), str(target), "--type", "q4_k_m"]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert run(["quantize", str(wide), str(target), "--type", "nonsense", "--force"]) == 2
    assert run(["quantize", str(wide), str(target), "Q5_K_M", "--force"]) == 0
    assert "Q5_K_M" in capfd.readouterr().out
    for types in ([], ["Q5_K_M", "--type", "Q5_K_M"]):
        assert run(["quantize", str(wide), str(target), *types, "--force"]) == 2
        assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["out.safetensors", "out.Safetensors"])
def test_a_name_of_another_format_is_refused(
    name: str, wide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["quantize", str(wide), str(tmp_path / name), "--type", "q4_k_m", "--force"]) == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert ".gguf" in told
    assert not (tmp_path / name).exists()
