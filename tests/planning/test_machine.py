"""This machine is measured once, by llama.cpp on tiny real models, and what is known is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader

from trimix_edge.errors import UsageError
from trimix_edge.gguf import check_header
from trimix_edge.llama import backend
from trimix_edge.llama.speed import decode_seconds
from trimix_edge.planning import measured
from trimix_edge.planning.machine import (
    N_BATCH,
    TYPES,
    Machine,
    TypeSpeed,
    find_profile,
    profiles,
)
from trimix_edge.planning.measured import known_machine, read_bandwidth, this_machine
from trimix_edge.planning.probe import N_VOCAB, Probe
from trimix_edge.planning.weights import of_file

TINY = Probe(n_layer=1, n_embd=512, n_ff=256)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small probes, and a cache folder of the test's own."""
    monkeypatch.setattr(measured, "LAYERS", TINY)
    monkeypatch.setattr(measured, "THIN", Probe(n_layer=2, n_embd=512, n_ff=256))
    monkeypatch.setattr(measured, "SECONDS", 0.0)
    monkeypatch.setattr(measured, "READ_BYTES", 1 << 16)
    monkeypatch.setenv("TRIMIX_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", TYPES)
def test_a_probe_is_a_model_of_one_type_that_llama_cpp_runs(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "probe.gguf"
    TINY.write(path, kind)
    found = of_file(check_header(path))
    assert found is not None
    assert found.layers == {kind: TINY.n_weights}
    seconds = decode_seconds(path, N_VOCAB, (1, 16), seconds=0.0, threads=1)
    assert all(0 < value < 60 for value in seconds.values())
    assert {t.tensor_type for t in GGUFReader(path).tensors if "attn_q.w" in t.name} == {
        GGMLQuantizationType[kind]
    }


def test_a_type_is_measured_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = this_machine(["Q4_K", "Q4_K"])
    assert set(first.speeds) == {"Q4_K"}
    assert first.layer_seconds > 0
    asked: list[str] = []
    real = measured.measure_type

    def counted(file: Path, kind: str, machine: Machine) -> TypeSpeed:
        asked.append(kind)
        return real(file, kind, machine)

    monkeypatch.setattr(measured, "measure_type", counted)
    second = this_machine(["Q4_K", "Q8_0", "F32"])
    assert asked == ["F16", "Q8_0"], "F32 counts as the nearest type"
    assert second.speeds["Q4_K"] == first.speeds["Q4_K"]
    assert second.speed("F32") == second.speeds["F16"]
    this_machine(["Q4_K"], anew=True)
    assert asked == ["F16", "Q8_0", "Q4_K"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "[" * 10_000,
        '{"key": {}}',
        '{"key": KEY, "speeds": {"Q4_K": {"token": -1.0, "prompt": 1.0, BATCHES}}, REST}',
        '{"key": KEY, "speeds": {"Q4_K": {"token": NaN, "prompt": 1.0, BATCHES}}, REST}',
        '{"key": KEY, "speeds": {}, "layer_seconds": "x"}',
    ],
)
def test_a_damaged_file_is_as_none(tiny: Path, content: str) -> None:
    tiny.mkdir()
    key = json.dumps(measured._key())
    (tiny / "machine-3.json").write_text(
        content.replace("KEY", key)
        .replace("BATCHES", '"batches": {"4": 1.0, "16": 1.0}')
        .replace("REST", '"layer_seconds": 1.0, "bytes_per_second": 1.0')
    )
    assert this_machine(["Q4_K"]).speeds["Q4_K"].token > 0
    kept = json.loads((tiny / "machine-3.json").read_text())
    assert set(kept["speeds"]) == {"Q4_K"}


def test_where_nothing_can_be_kept_the_machine_is_measured_all_the_same(tiny: Path) -> None:
    tiny.write_text("a file in the place of the folder")
    assert this_machine(["Q8_0"]).speeds["Q8_0"].prompt > 0
    assert tiny.read_text() == "a file in the place of the folder"


def test_profiles_name_their_sources_and_know_every_type() -> None:
    for name, profile in profiles().items():
        assert not profile.is_measured, name
        assert len(profile.source) > 20
        assert set(profile.speeds) == set(TYPES)
        assert 10**9 < profile.memory < 10**12
    with pytest.raises(UsageError, match=r"no machine is called 'pi9'.*pi5-8gb"):
        find_profile("pi9")


@pytest.mark.parametrize(
    ("kind", "stands_for_it"),
    [("BF16", "F16"), ("Q5_1", "Q5_0"), ("IQ4_XS", "Q4_0"), ("IQ3_S", "Q3_K"), ("IQ2_XS", "Q2_K")],
)
def test_other_types_count_as_the_nearest(kind: str, stands_for_it: str) -> None:
    profile: Machine = find_profile("pi5-8gb")
    assert profile.speed(kind) == profile.speeds[stands_for_it]


def test_what_is_known_is_read_without_measuring(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known_machine().speeds == {}
    first = this_machine(["Q8_0"])
    monkeypatch.setattr(measured, "decode_seconds", None)
    known = known_machine()
    assert known.speeds == first.speeds
    assert known.bytes_per_second == first.bytes_per_second > 0


def test_memory_is_read_by_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "READ_BYTES", 1 << 20)
    assert 1e6 < read_bandwidth(2) < 1e13


def test_a_batch_takes_what_was_measured_at_its_size_and_lies_between_elsewhere() -> None:
    speed = TypeSpeed(10.0, 1280.0, {4: 20.0, 16: 160.0})
    assert speed.seconds(1) == pytest.approx(0.1)
    assert speed.seconds(4) == pytest.approx(0.2)
    assert speed.seconds(10) == pytest.approx((0.2 + 0.1) / 2)
    assert speed.seconds(16) == pytest.approx(0.1)
    assert speed.seconds(N_BATCH) == pytest.approx(0.1)
    assert speed.seconds(2 * N_BATCH) == pytest.approx(0.2)
    of_profile = TypeSpeed(10.0, 1280.0)
    assert of_profile.seconds(2) == pytest.approx(0.1), "reading the weights bounds it"
    assert of_profile.seconds(N_BATCH * 3) == pytest.approx(0.3)


class FakeGgml:
    """The registry of a machine with a processor, a card, and a GPU inside the processor."""

    _types = (0, 1, 2, 1)
    _sizes = (64, 8, 64, 24)

    def __init__(self) -> None:
        def memory(device: int, free: object, total: object) -> None:
            total._obj.value = self._sizes[device - 1] << 30  # type: ignore[attr-defined]

        self.ggml_backend_dev_count = lambda: len(self._types)
        self.ggml_backend_dev_get = lambda i: i + 1
        self.ggml_backend_dev_type = lambda device: self._types[device - 1]
        self.ggml_backend_dev_memory = memory


def test_cards_with_memory_of_their_own_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.gpu_memory() == 0, "this build has no GPU"
    monkeypatch.setattr(backend, "ggml_library", lambda name: FakeGgml())
    assert backend.gpu_memory() == (8 + 24) << 30
