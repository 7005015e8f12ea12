"""What stands in the way of the target: it appears complete or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from trimix_convert import TargetError, convert_adapter, convert_checkpoint, output


def test_target_is_a_folder(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "m.gguf").mkdir()
    refuse(checkpoint("trio"), tmp_path / "m.gguf", TargetError, "folder")


def test_target_in_no_folder(checkpoint: Any, tmp_path: Path) -> None:
    folder = checkpoint("trio")
    with pytest.raises(TargetError, match="no folder"):
        convert_checkpoint(folder, tmp_path / "none" / "m.gguf")


def test_target_exists(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    target = tmp_path / "m.gguf"
    target.write_bytes(b"precious")
    refuse(checkpoint("trio"), target, TargetError, "exists", "--force", overwrite=False)
    assert target.read_bytes() == b"precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(checkpoint: Any, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(TargetError, match="cannot write"):
        convert_checkpoint(checkpoint("trio"), folder / "m.gguf")


def test_disk_too_small_is_told_before_the_first_byte(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Any
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(output.shutil, "disk_usage", lambda folder: usage)
    refuse(checkpoint("trio"), tmp_path / "m.gguf", TargetError, "needed", "free")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_disk_full_half_way_keeps_the_old_file(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = checkpoint("trio"), tmp_path / "m.gguf"
    target.write_bytes(b"precious")
    monkeypatch.setattr(output.uuid, "uuid4", lambda: uuid.UUID(int=0))
    (tmp_path / ".m.gguf.00000000.part").symlink_to("/dev/full")
    with pytest.raises(TargetError, match=os.strerror(errno.ENOSPC)):
        convert_checkpoint(folder, target)
    assert target.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "trio"]


def test_interrupt_leaves_nothing(checkpoint: Any, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    folder = checkpoint("trio")
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(folder, tmp_path / "m.gguf", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["trio"]


@pytest.mark.parametrize("name", ["m.safetensors", "M.SafeTensors", "m.gguf.safetensors", "m.pt"])
def test_names_of_other_formats_are_refused(
    name: str, checkpoint: Any, tmp_path: Path, refuse: Any
) -> None:
    folder = checkpoint("trio")
    refuse(folder, tmp_path / name, TargetError, name, ".gguf")
    with pytest.raises(TargetError, match="gguf"):
        convert_adapter(folder, tmp_path / name, base=folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_file_of_the_checkpoint_is_no_target(
    name: str, checkpoint: Any, tmp_path: Path, refuse: Any
) -> None:
    folder = checkpoint("qwen2")
    before = (folder / name).read_bytes()
    refuse(folder, folder / name, TargetError, name, "checkpoint")
    assert (folder / name).read_bytes() == before


def test_a_gguf_file_may_stand_among_the_checkpoint(checkpoint: Any) -> None:
    folder = checkpoint("trio")
    for _ in range(2):
        convert_checkpoint(folder, folder / "model.gguf")


def test_a_symbolic_link_is_followed_and_stays(checkpoint: Any, tmp_path: Path) -> None:
    real = tmp_path / "disk" / "real.gguf"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link = tmp_path / "link.gguf"
    link.symlink_to(real)
    convert_checkpoint(checkpoint("trio"), link, overwrite=True)
    assert link.is_symlink()
    assert real.read_bytes()[:4] == b"GGUF"
    assert [path.name for path in real.parent.iterdir()] == ["real.gguf"]
