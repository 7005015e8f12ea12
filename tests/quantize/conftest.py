"""Tiny real models: one whose rows every type divides, and one whose rows most do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import SMALL, Shape, random_tensors, write_gguf

WIDE = Shape(hidden=256, layers=1, kv_heads=1, ffn=256)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 weights, F32."""
    folder = tmp_path_factory.mktemp("wide")
    return write_gguf(folder, "wide", WIDE, random_tensors(WIDE, seed=1))


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 64 weights, F32."""
    folder = tmp_path_factory.mktemp("narrow")
    return write_gguf(folder, "narrow", SMALL, random_tensors(SMALL, seed=1))
