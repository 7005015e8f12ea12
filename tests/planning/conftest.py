"""A tiny real model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import SMALL, random_tensors, write_gguf


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, F32."""
    folder = tmp_path_factory.mktemp("small")
    return write_gguf(folder, "small", SMALL, random_tensors(SMALL, seed=1))
