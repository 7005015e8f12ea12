"""The embedded trio, as the server loads it."""

from __future__ import annotations

from typing import Any

from server.shim import Shim


def load() -> Any:
    return Shim()
