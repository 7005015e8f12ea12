"""A wheelhouse, a trio of tiny models, and the command line."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from bundling.wheelhouse import make_wheelhouse
from tiny_models import write_trio

from trimix_edge import cli

MANIFEST = """\
# large_ins: somewhere, licence x

name = "tiny \\"trio\\""  # a name
description = "from one \\u007f to another"

[models]
large_ins = "large_ins.gguf"
small_cpt = { model = "small_base", lora = "../parts/small cpt.gguf" }
small_base = '../parts/small $(base).gguf'

[fusion]
weights = [0.5, 0.8]
plausibility = "small_cpt:0.1"

[sampling]
repeat_penalty = 1.1
temperature = 1e-5

[generation]
chat = true
stop = ["\\n", "a\\"b"]
"""


class Result(NamedTuple):
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]

needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="bundles are for Linux",
)


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheelhouse(tmp_path_factory.mktemp("wheelhouse"))


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trio whose files lie in two folders, under names that a shell would stumble over."""
    root = tmp_path_factory.mktemp("trios")
    folder, parts = root / "tiny", root / "parts"
    folder.mkdir()
    parts.mkdir()
    write_trio(folder)
    shutil.move(folder / "small_base.gguf", parts / "small $(base).gguf")
    shutil.move(folder / "small_cpt.gguf", parts / "small cpt.gguf")
    (folder / "trio.toml").write_text(MANIFEST, encoding="utf-8")
    (folder / "README.md").write_text("# the model card\n")
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs ``trimix-edge bundle`` in this process."""

    def run(*arguments: str | Path) -> Result:
        code = cli.run(["bundle", *map(str, arguments)])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def bundle(run: Run, trio: Path, wheelhouse: Path, tmp_path: Path) -> Path:
    """A bundle in a folder."""
    target = tmp_path / "a stick" / "bundle"
    target.parent.mkdir()
    result = run(trio, "--to", target, "--wheelhouse", wheelhouse, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["path"] == str(target)
    return target
