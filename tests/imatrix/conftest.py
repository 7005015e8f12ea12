"""Tiny real models with rows that every type divides, a text, and an importance matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import WORDS, Shape, random_tensors, write_gguf

from trimix_edge.llama.calibration import CalibrationText
from trimix_edge.llama.imatrix import collect_imatrix

WIDE = Shape(hidden=256, layers=2, kv_heads=1, ffn=512)


def words(n: int, seed: int = 0) -> str:
    """A text of ``n`` words of the tiny vocabulary."""
    return "".join(np.random.RandomState(seed).choice(WORDS, n))


@pytest.fixture(scope="session")
def text() -> str:
    return words(600)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, rows of 256 and 512 weights, F32."""
    folder = tmp_path_factory.mktemp("wide")
    return write_gguf(folder, "wide", WIDE, random_tensors(WIDE, seed=1))


@pytest.fixture(scope="session")
def matrix(wide: Path, text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The importance matrix of ``wide`` on ``text``."""
    target = tmp_path_factory.mktemp("matrix") / "wide.imatrix.gguf"
    collect_imatrix(wide, target, [CalibrationText("words.txt", text)], chunk_size=128)
    return target
