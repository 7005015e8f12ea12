"""trimix-edge convert: any source, any type, one file or none."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub.fake_hub import FakeHub
from hub.tiny import WIDE, adapter
from safetensors.numpy import load_file, save_file
from tiny_models import SMALL, random_tensors, write_checkpoint

from trimix_edge.cli import run
from trimix_edge.errors import ConversionError, DiskSpaceError
from trimix_edge.gguf import read_gguf
from trimix_edge.hub import make_gguf
from trimix_edge.planning.summary import summarise


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    return write_checkpoint(folder, WIDE, random_tensors(WIDE, 7))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("outtype", ["f32", "F16", "bf16", "Q8_0", "q4_k_m"])
def test_a_folder_becomes_a_file_of_that_type(outtype: str, checkpoint: Path, out: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    made = make_gguf(
        checkpoint, out / "m.gguf", outtype=outtype, on_progress=lambda *args: heard.append(args)
    )
    assert summarise(read_gguf(out / "m.gguf")).quantization == outtype.upper()
    assert made.n_bytes == (out / "m.gguf").stat().st_size
    assert names(out) == ["m.gguf"], "no intermediate file is left behind"
    labels = list(dict.fromkeys(label for label, _, _ in heard))
    quantising = ["quantising checkpoint"] if outtype == "q4_k_m" else []
    assert labels == ["converting checkpoint", *quantising]
    assert heard[-1][1] == heard[-1][2]


def test_a_hub_id_with_a_revision(hub: FakeHub, checkpoint: Path, out: Path) -> None:
    hub.add("someone/Tiny", checkpoint, revisions=("main", "v2"))
    make_gguf("someone/Tiny@v2", out / "m.gguf", outtype="q4_0")
    summary = summarise(read_gguf(out / "m.gguf"))
    assert summary.quantization == "Q4_0"
    assert all("/resolve/v2/" in request.path for request in hub.bodies)
    assert names(out) == ["m.gguf"]


def test_a_folder_goes_before_a_hub_id(
    hub: FakeHub, checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "someone").mkdir()
    shutil.copytree(checkpoint, out / "someone" / "Tiny")
    monkeypatch.chdir(out)
    make_gguf("someone/Tiny", out / "m.gguf")
    assert hub.requests == []


def test_room_is_looked_for_before_the_download(
    hub: FakeHub, checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("someone/Tiny", checkpoint)
    monkeypatch.setattr("trimix_edge.files.free_bytes", lambda folder: 2_000_000)
    with pytest.raises(DiskSpaceError, match=r"someone/Tiny \(.* to download, .* to write\) needs"):
        make_gguf("someone/Tiny", out / "m.gguf", outtype="q4_k_m")
    assert hub.bodies == []


def test_the_command_line(checkpoint: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = str(out / "m.gguf")
    assert run(["convert", str(checkpoint), target, "--outtype", "q4_k_m"]) == 0
    told, err = capfd.readouterr()
    assert err == "", "quiet where stderr is no terminal"
    assert "Q4_K_M" in told
    assert run(["convert", str(checkpoint), target]) == 1
    assert "--force" in capfd.readouterr().err
    assert run(["convert", str(checkpoint), target, "--force", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["type"], facts["architecture"]) == ("f16", "llama")


@pytest.mark.parametrize("outtype", ["auto", "q4_k_m"])
@pytest.mark.parametrize("name", ["m.safetensors", "m.SAFETENSORS", "m.pt"])
def test_a_name_of_another_format_is_refused_before_the_download(
    name: str,
    outtype: str,
    hub: FakeHub,
    checkpoint: Path,
    out: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub.add("someone/Tiny", checkpoint)
    assert run(["convert", "someone/Tiny", str(out / name), "--outtype", outtype, "--force"]) == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert ".gguf" in told
    assert names(out) == []
    assert hub.requests == []


def shard(folder: Path, shard_name: str = "model-00002-of-00002.safetensors") -> None:
    """Two files and an index instead of one file."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(tensors) // 2
    first, second = dict(list(tensors.items())[:half]), dict(list(tensors.items())[half:])
    save_file(first, folder / "model-00001-of-00002.safetensors")
    save_file(second, folder / "model-00002-of-00002.safetensors")
    weight_map = {n: "model-00001-of-00002.safetensors" for n in first}
    weight_map |= dict.fromkeys(second, shard_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def unknown_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", architectures=["MambaForCausalLM"])


def missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def extra_shard(folder: Path) -> None:
    shard(folder)
    shutil.copy(
        folder / "model-00001-of-00002.safetensors", folder / "model-00003-of-00003.safetensors"
    )


def shard_outside(folder: Path) -> None:
    shard(folder, "../../outside.safetensors")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def wrong_shape(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=300)


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, folder / "model.safetensors")


def tokenizer_too_large(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:300].copy()
    save_file(tensors, folder / "model.safetensors")
    edit_json(folder / "config.json", vocab_size=300)


BAD = {
    no_config: "config.json",
    unknown_architecture: "known: Gemma3ForCausalLM",
    missing_shard: "missing shard",
    extra_shard: "extra shard",
    shard_outside: "outside the folder",
    truncated: "truncated",
    wrong_shape: "has shape",
    not_finite: "--allow-nan",
    tokenizer_too_large: "embedding",
}


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("outtype", ["auto", "q4_k_m"])
def test_bad_checkpoints_are_one_line_and_leave_nothing(
    damage: Callable[[Path], None],
    outtype: str,
    checkpoint: Path,
    out: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damage(checkpoint)
    assert run(["convert", str(checkpoint), str(out / "m.gguf"), "--outtype", outtype]) == 1
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith("trimix-edge: ")
    assert told.err.count("\n") == 1
    assert BAD[damage] in told.err
    assert names(out) == []


def test_weights_that_are_not_finite_can_be_let_pass(checkpoint: Path, out: Path) -> None:
    not_finite(checkpoint)
    make_gguf(checkpoint, out / "m.gguf", outtype="f32", allow_nan=True)
    assert names(out) == ["m.gguf"]


def test_rows_that_the_type_does_not_divide_are_a_note(tmp_path: Path, out: Path) -> None:
    narrow = write_checkpoint(tmp_path / "narrow", SMALL, random_tensors(SMALL, 1))
    made = make_gguf(narrow, out / "m.gguf", outtype="q4_k_m")
    assert any("no multiple of 256; llama.cpp stores" in note for note in made.notes)


def test_converted_with_an_importance_matrix(
    checkpoint: Path, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Converted at once, and step by step: the same file."""
    text = tmp_path / "t.txt"
    text.write_text(" the name of the file is in the window" * 200, encoding="utf-8")
    whole, matrix = tmp_path / "whole.gguf", tmp_path / "m.imatrix.gguf"
    steps, once = tmp_path / "steps.gguf", out / "once.gguf"
    assert run(["convert", str(checkpoint), str(whole)]) == 0
    assert run(["imatrix", str(whole), "--text", str(text), "--out", str(matrix)]) == 0
    assert run(["quantize", str(whole), str(steps), "Q4_K_M", "--imatrix", str(matrix)]) == 0
    arguments = ["convert", str(checkpoint), str(once), "--outtype", "q4_k_m"]
    assert run([*arguments, "--imatrix", str(matrix)]) == 0
    assert once.read_bytes() == steps.read_bytes()
    capfd.readouterr()
    assert run(["convert", str(checkpoint), str(out / "no.gguf"), "--imatrix", str(matrix)]) == 2
    assert "auto takes no importance matrix" in capfd.readouterr().err
    assert run([*arguments, "--force", "--imatrix", str(text)]) == 1
    told = capfd.readouterr().err
    assert str(text) in told
    assert told.count("\n") == 1
    assert names(out) == ["once.gguf"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["./nowhere", "m.gguf"], 2, "neither a folder nor a Hub id"),
        (["checkpoint", "out"], 1, "is a folder"),
        (["checkpoint", "no/such/m.gguf"], 1, "there is no folder"),
        (["checkpoint", "m.safetensors"], 1, "call it NAME.gguf"),
        (["checkpoint", "m.gguf", "--outtype", "q4_k_x"], 2, "use one of"),
        (["checkpoint"], 2, "TARGET.gguf"),
    ],
)
def test_usage(
    arguments: list[str],
    code: int,
    told: str,
    checkpoint: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert run(["convert", *arguments]) == code
    err = capfd.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_ctrl_c_leaves_nothing_behind(checkpoint: Path, out: Path) -> None:
    """The interrupt comes where half of the file is written."""
    slow = (
        "import sys, time, trimix_convert.output as o; encode = o.encode;"
        "o.encode = lambda *a: (time.sleep(1), encode(*a))[1];"
        "from trimix_edge.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["convert", str(checkpoint), str(out / "m.gguf"), "--outtype", "q4_k_m"]
    with subprocess.Popen([sys.executable, "-c", slow, *arguments]) as process:
        deadline = time.monotonic() + 60
        while not names(out) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert names(out)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert names(out) == []


def test_an_adapter_takes_its_base_from_the_hub(
    hub: FakeHub, checkpoint: Path, tmp_path: Path, out: Path
) -> None:
    hub.add("someone/Base", checkpoint)
    folder, _ = adapter(tmp_path / "adapter", "someone/Base")
    made = make_gguf(folder, out / "a.gguf")
    assert summarise(read_gguf(out / "a.gguf")).kind == "adapter"
    assert made.architecture == "llama"
    assert [request.path.rpartition("/")[2] for request in hub.bodies] == ["config.json"]
    hub.add("someone/Base", {"README.md": b"x"})
    with pytest.raises(ConversionError, match=r"holds no config\.json"):
        make_gguf(folder, out / "b.gguf")


def test_an_adapter_is_not_quantised_and_needs_a_base(
    checkpoint: Path, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _ = adapter(tmp_path / "adapter", "")
    target = str(out / "a.gguf")
    assert run(["convert", str(folder), target]) == 2
    assert "--base" in capfd.readouterr().err
    base = ["--base", str(checkpoint)]
    assert run(["convert", str(folder), target, "--outtype", "q4_k_m", *base]) == 2
    assert "not q4_k_m" in capfd.readouterr().err.lower()
    assert names(out) == []
    assert run(["convert", str(folder), target, *base]) == 0
    assert Path(target).stat().st_size < 100_000
