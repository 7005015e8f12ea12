"""Downloads through huggingface_hub: resumed, refused and missing, each told in one line."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub.fake_hub import FakeHub
from huggingface_hub import constants

from trimix_edge.errors import ConversionError, HubError, UsageError
from trimix_edge.hub import client
from trimix_edge.hub.checkpoint import RemoteCheckpoint, find_folder
from trimix_edge.hub.client import HubId

REPO = HubId("someone/Tiny")
CONTENT = bytes(range(256)) * 400


def files(**changes: bytes) -> dict[str, bytes]:
    return {"config.json": b"{}", "model.safetensors": CONTENT, **changes}


def fetch(hub_id: HubId = REPO, heard: list[tuple[str, int, int]] | None = None) -> Path:
    on_progress = None if heard is None else lambda *args: heard.append(args)
    return RemoteCheckpoint.find(hub_id).fetch(on_progress)


def refusal(hub_id: HubId = REPO) -> str:
    with pytest.raises(HubError) as caught:
        fetch(hub_id)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubId("owner/name")),
        ("Qwen/Qwen2.5-1.5B@v1.0", HubId("Qwen/Qwen2.5-1.5B", "v1.0")),
        ("a/b@refs/pr/3", HubId("a/b", "refs/pr/3")),
    ],
)
def test_hub_ids(text: str, expected: HubId) -> None:
    assert HubId.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["name", "a/b/c", "/a/b", "../b", "a/..", "a/b@", "a b/c", ""])
def test_what_is_no_hub_id(text: str) -> None:
    assert not HubId.is_one(text)
    with pytest.raises(UsageError, match="owner/name"):
        HubId.parse(text)


def test_a_checkpoint_arrives_whole_and_only_what_is_needed(hub: FakeHub) -> None:
    hub.add(
        str(REPO),
        files(**{"README.md": b"card", "pytorch_model.bin": b"x", "original/params.json": b"{}",
                 "tf_model.h5": b"x", ".gitattributes": b"x"}),
    )  # fmt: skip
    folder = fetch()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == CONTENT


def test_progress_counts_bytes_to_the_last(hub: FakeHub) -> None:
    hub.add(str(REPO), files())
    heard: list[tuple[str, int, int]] = []
    fetch(heard=heard)
    done = [n for _, n, _ in heard]
    assert done == sorted(done)
    assert heard[-1] == ("downloading Tiny", len(CONTENT) + 2, len(CONTENT) + 2)


def test_progress_counts_what_xet_brings_once() -> None:
    """hf_xet reports bytes on the wire and bytes on the disk."""
    reporting = pytest.importorskip("huggingface_hub.utils._xet_progress_reporting")
    heard: list[tuple[str, int, int]] = []
    meter = client._meter("x", 10, 110, lambda *args: heard.append(args))
    with reporting.XetDownloadProgressReporter(
        reconstruction_desc="", transfer_desc="", total=100, log_level=20, tqdm_class=meter
    ) as reporter:
        for n in (40, 100):
            reporter.update_progress(
                SimpleNamespace(
                    total_bytes=100,
                    total_bytes_completed=n,
                    total_bytes_completion_rate=1.0,
                    total_transfer_bytes_completed=n // 2,
                    total_transfer_bytes_completion_rate=1.0,
                )
            )
    assert heard == [("x", 10, 110), ("x", 50, 110), ("x", 110, 110)]


def test_a_download_that_breaks_is_taken_up_where_it_broke(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what is written at once
    hub.add(str(REPO), files())
    hub.breaks["model.safetensors"] = len(CONTENT) // 2
    heard: list[tuple[str, int, int]] = []
    folder = fetch(heard=heard)
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    bodies = [r for r in hub.bodies if r.path.endswith("model.safetensors")]
    assert [bool(r.range) for r in bodies] == [False, True]
    start = int(re.findall(r"\d+", bodies[1].range)[0])
    assert 0 < start <= len(CONTENT) // 2
    assert heard[-1][1] == heard[-1][2]


def test_a_second_fetch_asks_for_no_content(hub: FakeHub) -> None:
    hub.add(str(REPO), files())
    fetch()
    n_bodies = len(hub.bodies)
    assert RemoteCheckpoint.find(REPO).n_bytes_to_fetch == 0
    fetch()
    assert len(hub.bodies) == n_bodies


def test_the_token_goes_along(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(str(REPO), files(), token="hf_secret")
    assert "HF_TOKEN" in refusal()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch()
    assert hub.requests[-1].authorization == "Bearer hf_secret"


def test_a_revision(hub: FakeHub) -> None:
    hub.add(str(REPO), files(), revisions=("main", "v2"))
    fetch(HubId("someone/Tiny", "v2"))
    assert any("/resolve/v2/" in request.path for request in hub.bodies)
    assert "has no revision 'v3'" in refusal(HubId("someone/Tiny", "v3"))


@pytest.mark.parametrize("token", ["", "hf_other"])
def test_a_gated_repository_names_the_page_of_its_licence(hub: FakeHub, token: str) -> None:
    """With and without a token, the Hub answers 403 or 401."""
    hub.add("google/gemma", files(), gated=True, token=token)
    told = refusal(HubId("google/gemma"))
    assert f"accept its licence at {hub.url}/google/gemma" in told
    assert "HF_TOKEN" in told
    assert hub.bodies == []


def test_a_refusal_without_a_reason_names_the_page(hub: FakeHub) -> None:
    hub.status = 403
    assert f"if {hub.url}/someone/Tiny asks for it, accept the licence" in refusal()


def test_no_such_repository(hub: FakeHub) -> None:
    assert f"no repository someone/Tiny on {hub.url}, or it is private" in refusal()


def test_a_file_that_went_missing(hub: FakeHub) -> None:
    repository = hub.add(str(REPO), files())
    checkpoint = RemoteCheckpoint.find(REPO)
    del repository.files["model.safetensors"]
    with pytest.raises(HubError, match=r"someone/Tiny lacks the file model\.safetensors"):
        checkpoint.fetch()


def test_a_repository_that_changes_meanwhile(hub: FakeHub) -> None:
    repository = hub.add(str(REPO), files())
    checkpoint = RemoteCheckpoint.find(REPO)

    def change(label: str, done: int, total: int) -> None:
        repository.files["added"] = b"x"

    with pytest.raises(HubError, match="changed while it was downloaded"):
        checkpoint.fetch(change)


def test_no_checkpoint(hub: FakeHub) -> None:
    hub.add(str(REPO), {"README.md": b"card", "model.safetensors": CONTENT})
    with pytest.raises(ConversionError, match="no checkpoint: it holds no config"):
        fetch()
    hub.add(str(REPO), {"config.json": b"{}"})
    with pytest.raises(ConversionError, match="holds no weights"):
        fetch()


def test_pickles_without_pytorch_are_told_before_the_download(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(str(REPO), {"config.json": b"{}", "pytorch_model.bin": CONTENT})
    monkeypatch.setattr("trimix_edge.hub.checkpoint.find_spec", lambda name: None)
    with pytest.raises(ConversionError, match="pip install torch"):
        fetch()
    assert hub.bodies == []


@pytest.mark.parametrize("name", ["../../model.safetensors", "..\\model.safetensors", "C:x", "a/b"])
def test_names_with_a_path_are_never_asked_for(hub: FakeHub, name: str, tmp_path: Path) -> None:
    hub.add(str(REPO), {**files(), name: b"evil"})
    folder = fetch()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    listing = client.list_files(REPO)
    assert name not in listing


def test_offline_the_cache_answers(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(str(REPO), files())
    there = fetch()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_folder(str(REPO), "auto", there) == there
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE .* someone/Other is not in the cache"):
        find_folder("someone/Other", "auto", there)
    assert hub.requests == []


def test_out_of_reach(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("someone/Cached", files())
    there = fetch(HubId("someone/Cached"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", nowhere)
        assert refusal().startswith(f"{nowhere} is out of reach")
        assert find_folder("someone/Cached", "auto", there) == there, "the cache answers"


@pytest.mark.parametrize(("status", "advice"), [(429, "wait a while"), (503, "try again later")])
def test_the_hub_has_trouble(hub: FakeHub, status: int, advice: str) -> None:
    hub.status = status
    told = refusal()
    assert str(status) in told
    assert advice in told


def test_neither_folder_nor_hub_id(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(UsageError, match="neither a folder nor a Hub id"):
        find_folder("./nowhere", "auto", tmp_path)
    with pytest.raises(HubError, match=r"nor is there a folder some/where"):
        find_folder("some/where", "auto", tmp_path)
