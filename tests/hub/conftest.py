"""The fake Hub, huggingface_hub turned towards it, and tiny checkpoints to put there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub.fake_hub import FakeHub, fake_hub
from hub.tiny import WIDE
from huggingface_hub import constants
from tiny_models import random_tensors, write_checkpoint


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty Hub; this process asks it, with a cache of its own."""
    with fake_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def command_line(hub: FakeHub, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts trimix-edge as a person would, with the environment that huggingface_hub obeys."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from trimix_edge.cli import main; main()", *arguments],
            env={
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "home"),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )

    return start


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three checkpoints of one tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: write_checkpoint(folder / name, WIDE, random_tensors(WIDE, seed))
        for seed, name in enumerate(("large_ins", "small_cpt", "small_base"))
    }
