"""Files: replaced whole, where their links lead; texts as an editor shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trimix_edge.errors import TargetError
from trimix_edge.files import check_target, replacing, text_from_outside


def put(target: Path, text: str) -> None:
    with replacing(target) as scratch:
        scratch.write_text(text)


def fail_after_half(scratch: Path) -> None:
    scratch.write_text("half")
    raise ZeroDivisionError


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real"
    real.write_text("old")
    (tmp_path / "second").symlink_to("far/real")
    (tmp_path / "first").symlink_to(tmp_path / "second")
    put(tmp_path / "first", "new")
    assert real.read_text() == "new"
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert list(real.parent.iterdir()) == [real]


def test_a_link_that_leads_nowhere_yet_leads_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    check_target(tmp_path / "link", overwrite=False)
    put(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new").read_text() == "text"


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "link") as scratch:
        fail_after_half(scratch)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
    assert (tmp_path / "real").read_text() == "old"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660])
def test_a_replaced_file_hands_on_its_mode(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    target.chmod(mode)
    put(target, "new")
    assert target.stat().st_mode & 0o777 == mode


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(TargetError, match="circle"):
        put(tmp_path / "a", "text")
    with pytest.raises(TargetError, match="circle"):
        check_target(tmp_path / "a", overwrite=True)


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target in (Path(os.devnull), tmp_path / "pipe", tmp_path):
        with pytest.raises(TargetError):
            check_target(target, overwrite=True)
        with pytest.raises(TargetError):
            put(target, "text")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"a", "a"),
        (b"a\n", "a"),
        (b"a\r\n", "a"),
        (b"a\n\n", "a\n"),
        (b"a\r\nb\r\n", "a\nb"),
        (b"\n", ""),
        (b" a \n", " a "),
        (b"a\rb", "a\rb"),
        ("\ufeffཀ\n".encode(), "ཀ"),
        ("\ufeff\ufeffa".encode(), "\ufeffa"),
        ("a\ufeff".encode(), "a\ufeff"),
    ],
)
def test_a_text_is_what_an_editor_shows(data: bytes, text: str) -> None:
    assert text_from_outside(data) == text
