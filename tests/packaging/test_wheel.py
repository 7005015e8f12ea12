"""The wheel holds the three packages and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel_names(wheel: zipfile.ZipFile) -> list[str]:
    return wheel.namelist()


def test_the_licence_names_that_of_the_weights_too(wheel: zipfile.ZipFile) -> None:
    info = next(n.split("/")[0] for n in wheel.namelist() if ".dist-info/" in n)
    metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0 AND MPL-2.0"
    card = "trimix_edge/trios/dzongkha/README.md"
    assert metadata.get_all("License-File") == ["LICENSE", card]
    terms = wheel.read(f"{info}/licenses/{card}")
    assert b"CC BY-SA 4.0" in terms
    assert b"MPL-2.0" in terms


def test_top_level_names_are_the_three_packages(wheel_names: list[str]) -> None:
    names = {name.split("/")[0] for name in wheel_names}
    assert {name for name in names if not name.endswith(".dist-info")} == {
        "trimix_edge",
        "trimix_kernels",
        "trimix_convert",
    }


def test_packages_are_typed(wheel_names: list[str]) -> None:
    for package in ("trimix_edge", "trimix_kernels", "trimix_convert"):
        assert f"{package}/py.typed" in wheel_names


def test_embedded_trio_travels_in_the_wheel(wheel_names: list[str]) -> None:
    for name in ("trio.toml", "README.md", "large_ins.gguf", "small_cpt.gguf", "small_base.gguf"):
        assert f"trimix_edge/trios/dzongkha/{name}" in wheel_names


def test_what_a_bundle_is_installed_with_travels_in_the_wheel(wheel_names: list[str]) -> None:
    for name in ("install.sh", "check.py", "start.sh", "README.txt"):
        assert f"trimix_edge/bundling/resources/{name}" in wheel_names
