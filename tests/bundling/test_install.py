"""``install.sh`` of a bundle installs all of it or nothing, and nothing of a changed one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from bundling.conftest import Run, needs_linux
from bundling.wheelhouse import HERE, make_wheel, make_wheelhouse

pytestmark = needs_linux


def install(
    bundle: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", bundle / "install.sh", *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_REQUIRE_VIRTUALENV": "0"}
        | dict(env or {}),
    )


def test_it_installs_without_an_index_and_tests_itself(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home of (x) 'y'"
    home.mkdir()
    result = install(bundle, env={"HOME": str(home)})
    assert result.returncode == 0, result.stderr
    where = home / "trimix-edge-tiny-trio"
    assert "OPEN THE FILE." in result.stdout, "what the program that was installed answers"
    assert (where / "trio" / "trio.toml").is_file()
    assert (where / "start.sh").is_file()
    assert (where / "licences" / "README.txt").is_file()
    (level,) = where.glob("venv/lib/*/site-packages/llama_cpp_fake/level.txt")
    assert level.read_text() in HERE.levels
    again = install(bundle, where)
    assert again.returncode == 1
    assert f"{where} exists" in again.stderr


def test_a_place_that_the_installed_scripts_cannot_bear_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    """pip writes the name of the folder between double quotes into a script."""
    for name in ("$(touch x)", "`id`", 'a"b', "a\\b", "a\nb"):
        result = install(bundle, tmp_path / name / "where")
        assert result.returncode == 1
        assert "choose a folder without quotes, $, `, \\ and line ends" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a stick"]


def test_a_failed_self_test_leaves_nothing(run: Run, trio: Path, tmp_path: Path) -> None:
    house = make_wheelhouse(tmp_path / "house")
    whole = next(house.glob("trimix_edge*"))
    make_wheel(
        house, "trimix-edge", "0.1.0", "py3-none-any",
        ["llama-cpp-python", "numpy", "numba"],
        {"broken.py": b"def main():\n    raise SystemExit('trimix-edge: no')\n",
         "trimix_edge-0.1.0.dist-info/entry_points.txt":
             b"[console_scripts]\ntrimix-edge = broken:main\n"},
        ["Provides-Extra: serve"],
    )  # fmt: skip
    assert whole.name == "trimix_edge-0.1.0-py3-none-any.whl", "it was replaced"
    assert run(trio, "--to", tmp_path / "b", "--wheelhouse", house).code == 0
    result = install(tmp_path / "b", tmp_path / "where")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-2:] == [
        "trimix-edge: no", "install.sh: the test failed (see above): nothing is installed"
    ]  # fmt: skip
    assert not (tmp_path / "where").exists()


def _append(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        with (bundle / name).open("ab") as file:
            file.write(b"x")

    return change


def _add(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).write_bytes(b"x")


def _link(bundle: Path) -> None:
    shutil.copy(bundle / "trio" / "large_ins.gguf", bundle.parent / "x.gguf")
    (bundle / "trio" / "large_ins.gguf").unlink()
    (bundle / "trio" / "large_ins.gguf").symlink_to(bundle.parent / "x.gguf")


def _escaping_list(bundle: Path) -> None:
    with (bundle / "SHA256SUMS").open("a") as file:
        file.write("0" * 64 + "  ../../etc/passwd\n")


def _fact(name: str, value: str) -> Callable[[Path], None]:
    """A bundle that was made so: its sum fits."""

    def change(bundle: Path) -> None:
        conf, sums = bundle / "bundle.conf", bundle / "SHA256SUMS"
        before = hashlib.sha256(conf.read_bytes()).hexdigest()
        lines = conf.read_text().splitlines()
        conf.write_text(
            "".join(f"{name}={value}\n" if x.startswith(f"{name}=") else f"{x}\n" for x in lines)
        )
        after = hashlib.sha256(conf.read_bytes()).hexdigest()
        sums.write_text(sums.read_text().replace(before, after))

    return change


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "model": (_append("trio/large_ins.gguf"), "trio/large_ins.gguf is damaged or was changed"),
    "script": (_append("start.sh"), "start.sh is damaged or was changed"),
    "list": (_append("SHA256SUMS"), "SHA256SUMS is damaged"),
    "escaping_list": (_escaping_list, "SHA256SUMS is damaged"),
    "no_list": (lambda b: (b / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "no_model": (
        lambda b: (b / "trio/small_base.gguf").unlink(),
        "trio/small_base.gguf is missing",
    ),
    "no_check": (lambda b: (b / "check.py").unlink(), "check.py is missing"),
    "link": (_link, "trio/large_ins.gguf is missing"),
    "wheel": (_add("wheels/numpy-9-py3-none-any.whl"), "wheels/numpy-9-py3-none-any.whl is not"),
    "in_the_trio": (_add("trio/more\n.gguf"), "trio/more?.gguf is not part of the bundle"),
    "machine": (_fact("machine", "riscv64"), "this bundle is for riscv64, this machine is"),
    "glibc": (_fact("glibc", "2.99"), "glibc 2.99 or newer is needed, this system has 2."),
    "disk": (_fact("needs", str(10**18)), "1000000000000 MB of free disk are needed in"),
    "level": (_fact("levels", "x86-64-v9"), "this processor is of none of the kinds x86-64-v9"),
    "python": (_fact("pythons", "3.5"), "one of the Python versions 3.5 is needed, there is 3."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unfit_bundle_is_refused_by_name(name: str, bundle: Path, tmp_path: Path) -> None:
    spoil, told = REFUSED[name]
    spoil(bundle)
    result = install(bundle, tmp_path / "new folder" / "where")
    assert result.returncode == 1
    assert result.stderr.startswith(f"install.sh: {told}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "new folder").exists()


def test_files_that_other_systems_leave_on_a_stick_do_no_harm(bundle: Path, tmp_path: Path) -> None:
    (bundle / ".DS_Store").write_text("x")
    (bundle / "wheels" / "._numpy-2.0.0-py3-none-any.whl").write_text("x")
    (bundle / "System Volume Information").mkdir()
    result = subprocess.run(
        ["python3", "-I", bundle / "check.py", bundle, tmp_path], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in HERE.levels


def test_it_says_which_python_is_missing(bundle: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "uname", "sed", "dirname", "cat", "printf"):
        (tools / name).symlink_to(shutil.which(name) or name)
    result = install(bundle, tmp_path / "where", env={"PATH": str(tools)})
    assert result.returncode == 1
    assert "Python is missing: install Python, one of the versions 3." in result.stderr
    (tools / "python3").write_text(
        '#!/bin/sh\ncase "$*" in *venv*) exit 1;; esac\nsed -n "s/^pythons=//p" '
        f"'{bundle}/bundle.conf'\n"
    )
    (tools / "python3").chmod(0o755)
    result = install(bundle, tmp_path / "where", env={"PATH": str(tools)})
    assert "install.sh: Python's venv is missing: install python3-venv" in result.stderr


def test_start_wants_an_installation(bundle: Path) -> None:
    result = subprocess.run(["sh", bundle / "start.sh"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("start.sh: run install.sh first")


def test_the_readme_says_what_is_needed(bundle: Path) -> None:
    text = (bundle / "README.txt").read_text()
    assert text.startswith('tiny "trio": from one   to another\n')
    assert "sh ~/trimix-edge-tiny-trio/start.sh" in text
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]} with venv" in text
    assert "glibc 2.30 or newer" in text
    assert "@" not in text
