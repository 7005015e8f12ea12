"""The head of a file on the Hub is read by range requests; neither server nor file is trusted."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hub.fake_hub import FakeHub
from quantize.parts import split
from tiny_models import SMALL, random_tensors, write_gguf

from trimix_edge.cli import run
from trimix_edge.errors import HubError, ModelLoadError, UsageError
from trimix_edge.gguf import read_gguf
from trimix_edge.hub import remote
from trimix_edge.hub.client import HubId
from trimix_edge.hub.remote import HubFile, read_head

PADDING = 8 << 20


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    return write_gguf(folder, "small", SMALL, random_tensors(SMALL, seed=1))


def planned(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(["plan", "--json", "--machine", "pi5-8gb", *arguments]) == 0
    plans: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
    return plans


def test_a_file_of_the_hub_is_planned_as_its_copy_here_without_fetching_it(
    hub: FakeHub, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add("o/models", {"small.gguf": model.read_bytes() + b"\0" * PADDING})
    (there,) = planned(capfd, "o/models/small.gguf")
    (here,) = planned(capfd, str(model))
    assert there["rows"][0]["memory"] == here["rows"][0]["memory"]
    assert there["rows"][0]["fused"] == here["rows"][0]["fused"]
    assert there["rows"][0]["download"] == model.stat().st_size + PADDING
    assert hub.bodies
    for request in hub.bodies:
        first, last = request.range.removeprefix("bytes=").split("-")
        assert int(last) - int(first) < remote.PIECE


def test_a_repository_is_planned_by_type_and_parts_count_as_one(
    hub: FakeHub, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = split(model, tmp_path)
    parts = {path.name: path.read_bytes() for path in (first, second)}
    hub.add("o/models", {"README.md": b"x", **parts})
    (plan,) = planned(capfd, "o/models@main")
    assert plan["target"] == "o/models"
    assert plan["rows"][0]["download"] == sum(len(content) for content in parts.values())
    kind = plan["rows"][0]["quantization"]
    (same,) = planned(capfd, "o/models", "--quant", kind.lower())
    assert same["rows"] == plan["rows"]
    assert run(["plan", "--machine", "pi5-8gb", "o/models", "--quant", "Q9"]) == 1
    assert "holds no GGUF models of the types Q9" in capfd.readouterr().err
    hub.add("o/models", {first.name: parts[first.name]})
    assert run(["plan", "--machine", "pi5-8gb", "o/models"]) == 1
    assert f"o/models lacks the file {second.name}" in capfd.readouterr().err


def test_the_reader_is_the_one_for_files_here(hub: FakeHub, model: Path) -> None:
    hub.add("o/models", {"small.gguf": model.read_bytes()})
    head = read_head(HubFile(HubId("o/models"), "small.gguf"))
    here = read_gguf(model)
    assert (head.metadata, head.tensors, head.n_bytes) == (
        here.metadata, here.tensors, here.n_bytes,
    )  # fmt: skip


def lies(content: bytes) -> dict[str, bytes]:
    """Heads that a stranger may have made."""
    begin = b"GGUF" + struct.pack("<I", 3)
    key = struct.pack("<Q", 1) + b"k"
    long_array = b"".join(
        struct.pack("<Q", 3) + b"%03d" % n + struct.pack("<IIQ", 9, 0, 2 << 20) + b"\0" * (2 << 20)
        for n in range(4)
    )
    return {
        "no GGUF": b"<html>" * 100,
        "empty": b"",
        "counts": begin + struct.pack("<QQ", 1 << 62, 1 << 62),
        "a string of 4 EiB": begin
        + struct.pack("<QQ", 0, 1)
        + key
        + struct.pack("<IQ", 8, 1 << 62),
        "cut off": content[:100],
        "far apart": begin + struct.pack("<QQ", 0, 5) + long_array,
    }


@pytest.mark.parametrize("name", lies(b"").keys())
def test_hostile_heads_end_in_one_line_and_cost_little(
    hub: FakeHub,
    model: Path,
    name: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub.add("o/models", {"small.gguf": lies(model.read_bytes())[name]})
    assert run(["plan", "--machine", "pi5-8gb", "o/models/small.gguf"]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "small.gguf" in err
    assert len(hub.bodies) < 16


def test_bytes_requests_and_time_are_bounded(
    hub: FakeHub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = model.read_bytes()
    hub.add("o/models", {"small.gguf": content})
    file = HubFile(HubId("o/models"), "small.gguf")
    for name, value, told in (
        ("MAX_BYTES", 1000, "download the file"),
        ("MAX_REQUESTS", 0, "download the file"),
        ("MAX_SECONDS", -1.0, "took longer"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(remote, name, value)
            with pytest.raises(HubError, match=told):
                read_head(file)
    assert read_head(file).tensors


def test_a_server_that_sends_other_than_what_was_asked_for_is_told(
    hub: FakeHub, model: Path
) -> None:
    hub.add("o/models", {"small.gguf": model.read_bytes() + b"\0" * PADDING})
    file = HubFile(HubId("o/models"), "small.gguf")
    hub.ignores_ranges = True
    with pytest.raises(HubError, match="does not send parts of files"):
        read_head(file)
    hub.ignores_ranges = False
    hub.add("o/breaks", {"breaks.gguf": model.read_bytes()})
    hub.breaks["breaks.gguf"] = 100
    with pytest.raises(HubError, match=r"breaks\.gguf|out of reach"):
        read_head(HubFile(HubId("o/breaks"), "breaks.gguf"))


def test_what_the_hub_refuses_is_told(hub: FakeHub, model: Path) -> None:
    content = {"small.gguf": model.read_bytes()}
    hub.add("o/gated", content, gated=True)
    hub.add("o/models", content)
    with pytest.raises(HubError, match="is gated"):
        read_head(HubFile(HubId("o/gated"), "small.gguf"))
    with pytest.raises(HubError, match=r"lacks the file other\.gguf"):
        read_head(HubFile(HubId("o/models"), "other.gguf"))
    with pytest.raises(HubError, match="no repository o/none"):
        read_head(HubFile(HubId("o/none"), "small.gguf"))
    hub.status = 503
    with pytest.raises(HubError, match="503"):
        read_head(HubFile(HubId("o/models"), "small.gguf"))


def test_names_of_files_on_the_hub() -> None:
    assert HubFile.parse("o/n@v1/f.gguf") == HubFile(HubId("o/n", "v1"), "f.gguf")
    for text in ("f.gguf", "o/f.gguf", "/tmp/a/f.gguf", "../a/f.gguf", "o/n/d/f.gguf"):
        assert not HubFile.is_one(text)
    with pytest.raises(UsageError, match="no file of the Hub"):
        HubFile.parse("f.gguf")


def test_a_model_here_that_is_no_model_is_told_as_before(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        read_gguf(tmp_path / "none.gguf")
