"""trimix-edge pull: from three checkpoints on the Hub to a trio that speaks, and no further."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub.fake_hub import FakeHub
from huggingface_hub import constants
from quantize.parts import split

from trimix_edge import FusionWeights, Role, TriMix, TrioManifest
from trimix_edge.errors import DiskSpaceError, HubError, TargetError, UsageError
from trimix_edge.gguf import read_gguf
from trimix_edge.hub import PullReport, find_preset, make_gguf, pull
from trimix_edge.llama.calibration import CalibrationText
from trimix_edge.llama.imatrix_file import read_imatrix

PRESET = "qwen2.5-1.5b-7b-ug"
LARGE, READY = "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct-GGUF"
CPT, BASE = "pkupie/Qwen2.5-1.5B-ug-cpt", "Qwen/Qwen2.5-1.5B"
FILES = [
    "Qwen2.5-1.5B-Q4_K_M.gguf",
    "Qwen2.5-1.5B-ug-cpt-Q4_K_M.gguf",
    "Qwen2.5-7B-Instruct-Q4_K_M.gguf",
    "trio.toml",
]


@pytest.fixture(scope="session")
def ready(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Hub keeps ready: large_ins as Q4_K_M."""
    target = tmp_path_factory.mktemp("ready") / "large.gguf"
    make_gguf(checkpoints["large_ins"], target, outtype="Q4_K_M")
    return target


@pytest.fixture
def stocked(hub: FakeHub, checkpoints: dict[str, Path], ready: Path) -> FakeHub:
    """A Hub with all that the preset needs."""
    hub.add(READY, {
        "qwen2.5-7b-instruct-q4_k_m.gguf": ready.read_bytes(),
        "qwen2.5-7b-instruct-q5_k_m.gguf": b"not this one",
        "README.md": b"card",
    })  # fmt: skip
    hub.add(LARGE, checkpoints["large_ins"])
    hub.add(CPT, checkpoints["small_cpt"])
    hub.add(BASE, checkpoints["small_base"])
    return hub


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pulled(folder: Path, quantization: str = "Q4_K_M", **settings: bool) -> PullReport:
    return pull(find_preset(PRESET), folder, quantization, **settings)


def test_a_pulled_trio_speaks(
    stocked: FakeHub, command_line: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = command_line("pull", PRESET, "--to", "trio", "--json")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    told = json.loads(out)
    assert {role: model["how"] for role, model in told["models"].items()} == {
        "large_ins": "downloaded", "small_cpt": "converted", "small_base": "converted",
    }  # fmt: skip
    assert names(tmp_path / "trio") == FILES
    manifest = TrioManifest.find(tmp_path / "trio")
    assert manifest.script == "Arab"
    assert manifest.name == PRESET
    assert manifest.weights == FusionWeights(0.1, 0.9)
    head = read_gguf(manifest.models[Role.SMALL_CPT])
    assert head.metadata["general.name"] == "Qwen2.5-1.5B-ug-cpt"
    assert "general.finetune" not in head.metadata, "no commit of the cache's"
    text = (tmp_path / "trio" / "trio.toml").read_text()
    assert "translation_from_en: 0.3, 0.9" in text
    assert "licence apache-2.0" in text
    with TriMix.load(tmp_path / "trio", weights=FusionWeights.PROXY_TUNING) as trimix:
        assert trimix.generate("the file", max_tokens=4).token_ids

    stocked.requests.clear()
    process = command_line("pull", PRESET, "--to", "trio")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert out.count("present") == 3
    assert stocked.requests == [], "a second pull asks no one"
    process = command_line("pull", PRESET, "--to", "trio", HF_HUB_OFFLINE="1")
    assert process.wait(timeout=300) == 0


def test_what_a_person_changed_in_trio_toml_stays(stocked: FakeHub, tmp_path: Path) -> None:
    trio = pulled(tmp_path).trio
    trio.write_text(trio.read_text().replace("[0.1, 0.9]", "[0.3, 0.7]"))
    (tmp_path / "Qwen2.5-1.5B-Q4_K_M.gguf").unlink()
    report = pulled(tmp_path)
    assert [model.how for model in report.models.values()] == ["present", "present", "converted"]
    assert TrioManifest.read(trio).weights == FusionWeights(0.3, 0.7)
    pulled(tmp_path, overwrite=True)
    assert TrioManifest.read(trio).weights == FusionWeights(0.1, 0.9)


def test_offline_the_cache_is_converted(
    stocked: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled(tmp_path / "trio")
    (tmp_path / "trio" / "Qwen2.5-1.5B-Q4_K_M.gguf").unlink()
    stocked.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pulled(tmp_path / "trio").models[Role.SMALL_BASE].how == "converted"
    assert stocked.requests == []
    with pytest.raises(HubError, match=r"Qwen/Qwen2.5-7B-Instruct is not in the cache either"):
        pulled(tmp_path / "other")


def test_a_folder_with_another_trio_is_left_alone(stocked: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "trio.toml").write_text('[models]\nlarge_ins = "other.gguf"\n')
    with pytest.raises(TargetError, match="names other models"):
        pulled(tmp_path)
    assert stocked.requests == []
    assert names(tmp_path) == ["trio.toml"]


def test_no_ready_file_of_the_type_means_conversion(stocked: FakeHub, tmp_path: Path) -> None:
    report = pulled(tmp_path / "trio", "q8_0")
    assert {model.how for model in report.models.values()} == {"converted"}
    assert report.quantization == "Q8_0"
    assert not any(request.path.startswith(f"/{READY}/") for request in stocked.bodies)


def test_a_ready_file_in_parts(stocked: FakeHub, ready: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    parts = split(ready, tmp_path / "parts")
    stem = "qwen2.5-7b-instruct-q4_k_m"
    stocked.add(READY, {f"{stem}{p.name.removeprefix('m')}": p.read_bytes() for p in parts})
    folder = tmp_path / "trio"
    report = pulled(folder)
    assert report.models[Role.LARGE_INS].path.name == (
        "Qwen2.5-7B-Instruct-Q4_K_M-00001-of-00002.gguf"
    )
    with TriMix.load(folder) as trimix:
        assert trimix.generate("the file", max_tokens=2).token_ids
    stocked.requests.clear()
    assert {model.how for model in pulled(folder).models.values()} == {"present"}
    assert stocked.requests == []


def test_an_incomplete_set_of_parts_is_not_taken(stocked: FakeHub, tmp_path: Path) -> None:
    stocked.add(READY, {"qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf": b"GGUF"})
    assert pulled(tmp_path).models[Role.LARGE_INS].how == "converted"


def test_a_full_disk_is_told_before_the_first_byte(
    stocked: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimix_edge.files.free_bytes", lambda folder: 10_000_000)
    with pytest.raises(DiskSpaceError, match=r"needs \d\.\d+ GB in .* 10 MB are free") as caught:
        pulled(tmp_path / "trio")
    assert "to download" in str(caught.value)
    assert stocked.bodies == []
    assert not (tmp_path / "trio").exists()


def test_a_gated_model_is_told_before_anything_is_downloaded(
    stocked: FakeHub, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    preset = find_preset("gemma-3-4b-12b-bo")
    stocked.add("google/gemma-3-12b-it", checkpoints["large_ins"], gated=True)
    stocked.add("pkupie/gemma-3-4b-bo-cpt", checkpoints["small_cpt"])
    stocked.add("google/gemma-3-4b-pt", checkpoints["small_base"], gated=True)
    with pytest.raises(HubError, match=r"accept its licence at \S+/google/gemma-3-12b-it"):
        pull(preset, tmp_path / "trio")
    assert stocked.bodies == []


def test_ctrl_c_leaves_only_whole_files(
    stocked: FakeHub, command_line: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    stocked.slow = threading.Event()
    process = command_line("pull", PRESET, "--to", "trio")
    deadline = time.monotonic() + 120
    while not stocked.bodies and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    assert names(tmp_path / "trio") == []
    stocked.slow.set()
    stocked.slow = None
    assert names(pulled(tmp_path / "trio").trio.parent) == FILES


def test_a_damaged_file_is_made_again(stocked: FakeHub, tmp_path: Path) -> None:
    pulled(tmp_path)
    small = tmp_path / "Qwen2.5-1.5B-Q4_K_M.gguf"
    small.write_bytes(small.read_bytes()[:-1000])
    assert pulled(tmp_path).models[Role.SMALL_BASE].how == "converted"


def test_a_trio_is_quantised_with_matrices_of_a_text(
    stocked: FakeHub, command_line: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    text = tmp_path / "dzo.txt"
    text.write_text(" འདི་ རྫོང་ཁ ཨིན།" * 300, encoding="utf-8")
    plain = pulled(tmp_path / "trio")
    assert plain.models[Role.LARGE_INS].how == "downloaded"
    # What is there was made without a matrix: it is made again, once.
    for how in ("converted", "present"):
        process = command_line(
            "pull", PRESET, "--to", "trio", "--imatrix-text", "dzo.txt", "--json"
        )
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, "")
        told = json.loads(out)["models"]
        assert {model["how"] for model in told.values()} == {how}
    for model in told.values():
        head = read_gguf(tmp_path / model["file"])
        assert head.metadata["quantize.imatrix.dataset"] == "dzo.txt"
        matrix = read_imatrix(tmp_path / model["file"].replace(".gguf", ".imatrix.gguf"))
        assert head.metadata["quantize.imatrix.entries_count"] == len(matrix.entries)
    with pytest.raises(UsageError, match="Q8_0 takes no importance matrix"):
        pull(find_preset(PRESET), tmp_path / "t", "q8_0", imatrix_texts=[CalibrationText("a", "b")])


def test_usage(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(UsageError, match=r"did you mean qwen2\.5-1\.5b-7b-bo"):
        find_preset("qwen-1.5b-7b-bo")
    with pytest.raises(UsageError, match="no quantisation"):
        pulled(tmp_path, "Q4_K_X")
    with pytest.raises(UsageError, match="COPY"):
        pulled(tmp_path, "copy")
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetError, match="not a folder"):
        pulled(tmp_path / "file")
    assert hub.requests == []
