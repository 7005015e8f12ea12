"""Exemplars that a manifest names: a file that may come from a stranger."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimix_edge.errors import TrioConfigError
from trimix_edge.trios.exemplars import MAX_BYTES, conversation, read_exemplars
from trimix_edge.trios.manifest import TrioManifest


def manifest(folder: Path, content: bytes | None, name: str = "pairs.tsv") -> TrioManifest:
    folder.mkdir(exist_ok=True)
    (folder / "trio.toml").write_text(f'exemplars = "{name}"\n')
    if content is not None:
        (folder / name).write_bytes(content)
    return TrioManifest.read(folder / "trio.toml")


def test_exemplars_become_turns_before_the_prompt(tmp_path: Path) -> None:
    trio = manifest(tmp_path, "\ufeffOpen it.\tཁ་ཕྱེ།\r\n\nClose it.\tཁ་བསྡམ།\n".encode())
    found = read_exemplars(trio, 1)
    assert conversation(found, "Save it.") == [
        {"role": "user", "content": "Open it."},
        {"role": "assistant", "content": "ཁ་ཕྱེ།"},
        {"role": "user", "content": "Save it."},
    ]
    assert [e.prompt for e in read_exemplars(trio, 2)] == ["Open it.", "Close it."]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is no file"),
        (b"a\tb\n", "holds 1 exemplars: 2 shots are too many"),
        (b"a\tb\na b\n", "line 2: not a prompt, one tab and an answer"),
        (b"a\tb\tc\n", "line 1"),
        (b"a\t \n", "line 1"),
        (b"a\tb\xff\n", "not UTF-8: byte 3"),
        (b"a\tb\n" * (MAX_BYTES // 4 + 1), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_of_no_use_is_told_in_one_line(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    with pytest.raises(TrioConfigError, match=told) as caught:
        read_exemplars(manifest(tmp_path, content), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_link", [False, True])
def test_no_file_outside_the_folder_is_read(tmp_path: Path, is_link: bool) -> None:
    (tmp_path / "outside.tsv").write_text("secret\tsecret\n")
    trio = manifest(tmp_path / "trio", None, "inside.tsv" if is_link else "../outside.tsv")
    if is_link:
        (tmp_path / "trio" / "inside.tsv").symlink_to("../outside.tsv")
    with pytest.raises(TrioConfigError, match="outside the trio's folder"):
        read_exemplars(trio, 1)


def test_a_trio_without_exemplars_says_how_to_name_some(tmp_path: Path) -> None:
    (tmp_path / "trio.toml").write_text("")
    with pytest.raises(TrioConfigError, match=r'exemplars = "exemplars.tsv"'):
        read_exemplars(TrioManifest.read(tmp_path / "trio.toml"), 1)
