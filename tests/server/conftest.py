from __future__ import annotations

from collections.abc import Iterator

import pytest
from server.fake_engine import FakeEngine
from server.running import Running, running


@pytest.fixture(scope="session")
def quick() -> Iterator[Running]:
    """A server whose engine is scripted and fast."""
    with running(FakeEngine) as server:
        yield server


@pytest.fixture(scope="session")
def real() -> Iterator[Running]:
    """A server with the embedded trio."""
    from server.real_engine import load

    with running(load) as server:
        yield server
