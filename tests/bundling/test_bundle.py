"""``trimix-edge bundle`` writes all of a bundle or nothing, and takes only what is for it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from bundling.conftest import MANIFEST, Run, needs_linux
from bundling.wheelhouse import ELF, HERE, PYTHON, library, make_wheel, make_wheelhouse
from quantize.parts import split

from trimix_edge.bundling import writing
from trimix_edge.bundling.wheels import TARGETS
from trimix_edge.config import Role
from trimix_edge.trios.manifest import TrioManifest

pytestmark = needs_linux
OTHER = next(target for target in TARGETS.values() if target != HERE)


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_sums_name_every_file_and_nothing_else(bundle: Path) -> None:
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert contents(bundle) - {"SHA256SUMS"} == set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest


def test_the_trio_is_the_same_under_names_of_its_roles(bundle: Path, trio: Path) -> None:
    before, after = (TrioManifest.find(folder) for folder in (trio, bundle / "trio"))
    assert {role: path.name for role, path in after.models.items()} == {
        Role.LARGE_INS: "large_ins.gguf",
        Role.SMALL_BASE: "small_base.gguf",
    }
    assert after.adapters[Role.SMALL_CPT].path.name == "small_cpt-lora.gguf"
    for role in before.models:
        assert before.models[role].read_bytes() == after.models[role].read_bytes()
    same = {"models": before.models, "adapters": before.adapters}
    assert dataclasses.replace(after, **same) == before
    text = (bundle / "trio" / "trio.toml").read_text()
    assert text.startswith("# large_ins: somewhere, licence x\n")
    assert (bundle / "trio" / "README.md").read_text() == "# the model card\n"


def test_only_needed_wheels_go_along(run: Run, trio: Path, tmp_path: Path) -> None:
    house = make_wheelhouse(tmp_path / "house")
    for name in ("matplotlib", "tomli", "idna"):
        make_wheel(house, name, "1.0", "py3-none-any")
    make_wheel(house, "numpy", "2.6.0", f"{PYTHON}-{PYTHON}-linux_{HERE.machine}")
    make_wheel(house, "numba", "0.61", f"cp310-cp310-linux_{HERE.machine}", ["numpy", "absent>=3"])
    result = run(trio, "--to", tmp_path / "b", "--wheelhouse", house, "--json")
    assert result.code == 0, result.err
    names = {path.name.split("-")[0] for path in (tmp_path / "b" / "wheels").glob("*.whl")}
    assert names == {"trimix_edge", "numpy", "numba", "llvmlite", "starlette"}
    assert [p.name for p in (tmp_path / "b" / "wheels").glob("numpy-2.0.0-*")], "numba wants it"
    report = json.loads(result.out)
    assert report["pythons"] == [f"{sys.version_info[0]}.{sys.version_info[1]}"]
    assert tuple(report["levels"]) == HERE.levels
    assert report["glibc"] == "2.30", "what the compiled library asks for"
    assert any("absent>=3" in line for line in report["lacking"]) or sys.version_info[:2] == (3, 10)
    assert report["digest"] == hashlib.sha256((tmp_path / "b/SHA256SUMS").read_bytes()).hexdigest()


def test_licences_of_models_and_programs_go_along(bundle: Path) -> None:
    overview = (bundle / "licences" / "README.txt").read_text()
    assert "trimix-edge 0.1.0: Apache-2.0" in overview
    assert "numpy 2.0.0: BSD" in overview
    assert "large_ins.gguf" in overview
    (text,) = (bundle / "licences").glob("trimix-edge-*/LICENSE")
    assert text.read_text() == "Apache License, the whole text"
    assert "libfake, inside of those: LICENSE.libfake" in overview
    assert [path.name for path in (bundle / "licences").glob("LICENSE*")] == ["LICENSE.libfake"]


def test_a_tar_file_holds_the_same(run: Run, bundle: Path, trio: Path, wheelhouse: Path) -> None:
    target = bundle.parent / "b.tar"
    assert run(trio, "--to", target, "--wheelhouse", wheelhouse).code == 0
    with tarfile.open(target) as archive:
        files = {member.name: member for member in archive.getmembers()}
        assert set(files) == {f"b/{name}" for name in contents(bundle)}
        assert files["b/install.sh"].mode == 0o755
        for name in contents(bundle):
            inner = archive.extractfile(files[f"b/{name}"])
            assert inner is not None
            assert inner.read() == (bundle / name).read_bytes()


def test_a_model_in_parts_keeps_its_parts(
    run: Run, trio: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "trio"
    shutil.copytree(trio, folder)
    split(trio / "large_ins.gguf", folder, 3)
    first = next(folder.glob("*-00001-of-00002.gguf"))
    text = MANIFEST.replace('"large_ins.gguf"', json.dumps(first.name)).replace(
        "../", f"{trio}/../"
    )
    (folder / "trio.toml").write_text(text)
    assert run(folder, "--to", tmp_path / "b", "--wheelhouse", wheelhouse).code == 0
    manifest = TrioManifest.find(tmp_path / "b" / "trio")
    assert manifest.models[Role.LARGE_INS].name == "large_ins-00001-of-00002.gguf"
    assert (tmp_path / "b" / "trio" / "large_ins-00002-of-00002.gguf").is_file()


def _no_llama(house: Path) -> None:
    for level in HERE.levels:
        shutil.rmtree(house / level)


def _of_another_level(house: Path) -> None:
    make_wheel(
        house / HERE.levels[0], "llama-cpp-python", "0.3.35", f"py3-none-linux_{HERE.machine}"
    )
    (house / HERE.levels[0] / f"llama_cpp_python-0.3.36-py3-none-linux_{HERE.machine}.whl").unlink()


def _disguised(house: Path) -> None:
    make_wheel(
        house, "evil", "1", f"py3-none-linux_{HERE.machine}", [],
        {"evil/lib.so": library(OTHER.machine)},
    )  # fmt: skip


def _hostile_name(house: Path) -> None:
    shutil.copy(next(house.glob("numpy*")), house / "a$(b) ;c-1-py3-none-any.whl")


BAD_WHEELHOUSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "windows": (lambda house: make_wheel(house, "numpy", "3", "cp311-cp311-win_amd64"),
                "numpy-3-cp311-cp311-win_amd64.whl is for win_amd64, the bundle for linux-"),
    "other_machine": (
        lambda house: make_wheel(house, "numpy", "3", f"py3-none-linux_{OTHER.machine}"),
        f"numpy-3-py3-none-linux_{OTHER.machine}.whl is for linux_{OTHER.machine}, the bundle"),
    "musl": (lambda house: make_wheel(house, "x", "1", f"py3-none-musllinux_1_2_{HERE.machine}"),
             "is for musllinux_1_2"),
    "disguised": (_disguised, f"its library 'evil/lib.so' is not for {HERE.machine}, whatever"),
    "lacking": (lambda house: next(house.glob("llvmlite*")).unlink(), "llvmlite: make wheels"),
    "no_llama": (_no_llama, "holds no wheel of llama-cpp-python in any of the folders"),
    "versions": (_of_another_level, "these wheels must be of the same version"),
    "no_wheel_name": (lambda house: (house / "numpy.whl").write_bytes(b""), "not the name of a w"),
    "hostile_name": (_hostile_name, "is not the name of a wheel"),
    "no_zip": (lambda house: (house / "x-1-py3-none-any.whl").write_bytes(b"PK"), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_WHEELHOUSES)
def test_an_unfit_wheelhouse_is_refused_by_name(
    name: str, run: Run, trio: Path, tmp_path: Path
) -> None:
    spoil, told = BAD_WHEELHOUSES[name]
    house = make_wheelhouse(tmp_path / "house")
    spoil(house)
    result = run(trio, "--to", tmp_path / "b", "--wheelhouse", house)
    assert result.code == 1
    assert told in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [house]


def test_a_wheelhouse_of_the_other_machine_makes_its_bundle(
    run: Run, trio: Path, tmp_path: Path
) -> None:
    house = make_wheelhouse(tmp_path / "house", OTHER.machine)
    arguments = (trio, "--to", tmp_path / "b", "--wheelhouse", house)
    assert run(*arguments).code == 1
    assert run(*arguments, "--target", OTHER.name).code == 0
    assert f"machine={OTHER.machine}" in (tmp_path / "b" / "bundle.conf").read_text().splitlines()
    assert ELF[OTHER.machine] == OTHER.elf


BAD_CALLS = {
    "klingon --to @/b": (1, "no trio is called 'klingon'"),
    "@/no.toml --to @/b": (1, "no trio is called"),
    "dzongkha": (2, "--to"),
    "dzongkha --to @/taken": (1, "taken exists: choose another name, or take it away first"),
    "dzongkha --to @/taken.tar": (1, "taken.tar exists"),
    "dzongkha --to @/dangling": (1, "dangling exists"),
    "dzongkha --to @/none/b": (1, "there is no folder"),
    "dzongkha --to @/taken.tar/b": (1, "there is no folder"),
    "dzongkha --to @/b --target windows": (2, "target is 'windows', it must be linux-x86_64 or"),
    "dzongkha --to @/b --wheelhouse @/none": (1, "there is no folder"),
    "dzongkha --to @/b --wheelhouse @/taken": (1, "holds no wheel of llama-cpp-python"),
    "dzongkha --to @/b --sentence=": (2, "the sentence must have from 1 to 2000 characters"),
    "@/damaged --to @/b": (1, "large_ins.gguf is truncated"),
    "@/missing --to @/b": (1, "small_cpt.gguf: no such file"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_a_bad_call_is_one_line_and_leaves_nothing(
    call: str, run: Run, trio: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    code, told = BAD_CALLS[call]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken.tar").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("damaged", "missing"):
        (tmp_path / name).mkdir()
        data = (trio / "large_ins.gguf").read_bytes()
        (tmp_path / name / "large_ins.gguf").write_bytes(data[:-64] if name == "damaged" else data)
        (tmp_path / name / "trio.toml").write_text(
            '[models]\nlarge_ins = "large_ins.gguf"\nsmall_cpt = "small_cpt.gguf"\n'
        )
    before = {path for path in tmp_path.rglob("*")}
    arguments = call.replace("@", str(tmp_path)).split()
    if "--wheelhouse" not in arguments:
        arguments += ["--wheelhouse", str(wheelhouse)]
    result = run(*arguments)
    assert result.code == code
    assert told in result.err
    assert result.err.count("\n") == 1
    assert {path for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    name: str, run: Run, trio: Path, wheelhouse: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    result = run(trio, "--to", tmp_path / name, "--wheelhouse", wheelhouse)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "0.0 MB are free" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_a_disk_that_gets_full_in_the_middle_leaves_nothing(
    name: str, run: Run, trio: Path, wheelhouse: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Another program took the room: the write itself fails, after some files."""
    read, room = writing._Hashing.read, 200_000

    def full(self: writing._Hashing, size: int = -1, /) -> bytes:
        nonlocal room
        data = read(self, size)
        room -= len(data)
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return data

    monkeypatch.setattr(writing._Hashing, "read", full)
    result = run(trio, "--to", tmp_path / name, "--wheelhouse", wheelhouse)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the disk is full; nothing is left of the bundle" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_a_file_system_with_small_files_leaves_nothing(
    name: str, trio: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    """The kernel itself refuses to write on, as FAT32 does at 4 GB."""
    result = subprocess.run(
        [sys.executable, "-c", "from trimix_edge.cli import main; main()", "bundle", trio,
         "--to", tmp_path / name, "--wheelhouse", wheelhouse],
        capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )  # fmt: skip
    assert result.returncode == 1
    assert "this file system takes no file of that size" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_middle_leaves_nothing(
    run: Run, trio: Path, wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trimix_edge.cli.making.ByteBar.update", stop)
    assert run(trio, "--to", tmp_path / "b", "--wheelhouse", wheelhouse).code == 130
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_in_a_manifest_stay_outside(
    run: Run, trio: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    """They find their files, and name nothing in the bundle."""
    folder = tmp_path / "trio"
    folder.mkdir()
    for name in ("large\n_ins`id`.gguf", "-rf .gguf"):
        (folder / name).write_bytes((trio / "large_ins.gguf").read_bytes())
    outside = os.path.relpath(trio / "large_ins.gguf", folder)
    (folder / "trio.toml").write_text(
        'name = "../../$(id)\\n/etc/x\\u001b[31m"\n'
        'description = "@NAME@ $(id) `id` \\u0007\\n[x]"\n[models]\n'
        f'large_ins = "large\\n_ins`id`.gguf"\nsmall_cpt = "-rf .gguf"\nsmall_base = "{outside}"\n'
    )
    result = run(folder, "--to", tmp_path / "b", "--wheelhouse", wheelhouse)
    assert result.code == 0, result.err
    names = {name for name in contents(tmp_path / "b") if name.startswith("trio/")}
    assert names == {
        "trio/trio.toml", "trio/large_ins.gguf", "trio/small_cpt.gguf", "trio/small_base.gguf"
    }  # fmt: skip
    assert "name=id-etc-x-31m" in (tmp_path / "b" / "bundle.conf").read_text().splitlines()
    for name in ("README.txt", "licences/README.txt"):
        text = (tmp_path / "b" / name).read_text()
        assert text.isprintable() or all(c.isprintable() or c == "\n" for c in text)
    assert {path.name for path in tmp_path.iterdir()} == {"trio", "b"}
