"""Benchmark data in all formats, and the command line on the tiny trio."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_data import write_milic, write_plain
from cli.conftest import run as run
from cli.conftest import start as start
from cli.conftest import tiny as tiny


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight tasks."""
    return write_plain(write_milic(tmp_path_factory.mktemp("data")))
