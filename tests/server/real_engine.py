"""The embedded trio, as the server loads it."""

from __future__ import annotations

from trimix_edge import Role, TriMix


def load() -> TriMix:
    return TriMix.load("dzongkha", n_parallel=4, roles=tuple(Role))
