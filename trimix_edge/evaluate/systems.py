"""What is compared: settings of the fusion, on models that are loaded once.

The seam for further rules and for weights that are chosen a prompt: a system knows its name, the
roles that it needs, and what it hands to ``TriMix.generate``. Nothing else of this package does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimix_edge.config import FusionWeights, Plausibility, Role
from trimix_edge.errors import UsageError
from trimix_edge.manifest import TrioManifest

if TYPE_CHECKING:
    from trimix_edge.trimix import Generation


@dataclass(frozen=True)
class System:
    """One setting of the fusion."""

    weights: FusionWeights
    plausibility: Plausibility | None = None

    @classmethod
    def choose(
        cls, weights: Sequence[str], plausibility: Plausibility | None, manifest: TrioManifest
    ) -> tuple[System, ...]:
        """A system for each of the weights that were given; the manifest's if none were.

        Raises:
            UsageError: what is given has no meaning, or twice the same.
        """
        mask = plausibility or manifest.plausibility
        chosen = [FusionWeights.parse(text) for text in weights] or [manifest.weights]
        systems = tuple(cls(pair, mask) for pair in chosen)
        names = [system.name for system in systems]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"weights {name} are given twice")
        return systems

    @property
    def name(self) -> str:
        """As on the command line, ``0.1,0.9``: also the name of its folder of predictions."""
        return f"{self.weights.large_ins:.12g},{self.weights.small_cpt:.12g}"

    @property
    def roles(self) -> Collection[Role]:
        """The models that must be loaded."""
        mask = () if self.plausibility is None else (self.plausibility.role,)
        return {*self.weights.roles, *mask}

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``TriMix.generate``."""
        return {"weights": self.weights, "plausibility": self.plausibility}

    def weights_used(self, generation: Generation) -> list[float] | None:
        """The weights of large_ins, small_cpt and small_base that made an output."""
        used = generation.weights
        return [round(used.of(role), 12) for role in Role]

    def as_json(self) -> dict[str, Any]:
        """All that it takes to have the same system again."""
        mask = None if self.plausibility is None else str(self.plausibility)
        weights = {str(role): round(self.weights.of(role), 12) for role in Role}
        return {"name": self.name, "weights": weights, "plausibility": mask}
