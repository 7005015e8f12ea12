"""The tiny trio as GGUF files, and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from tiny_models import GREEDY_TRIO, write_trio

from trimix_edge import ContextParams, Role, TriMix
from trimix_edge.llama import backend


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Path]:
    """The three files."""
    files = write_trio(tmp_path_factory.mktemp("tiny"))
    return {Role(name): path for name, path in files.items()}


@pytest.fixture(scope="session")
def trimix(tiny: dict[Role, Path]) -> Iterator[TriMix]:
    """All three models, with float32 all the way."""
    context = ContextParams(n_ctx=256, kv_type="f32", n_threads=1)
    with TriMix.load(GREEDY_TRIO, models=tiny, roles=list(Role), context=context) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def _own_log() -> None:
    """Take llama.cpp's log back from tests that drive llama.cpp without this package."""
    backend.init_backend()
    llama_cpp.llama_log_set(backend._on_log, None)
