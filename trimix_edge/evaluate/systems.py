"""What is compared: fusion rules and their weights, on models that are loaded once.

A system knows its name, the roles that it needs, and what it hands to ``TriMix.generate``. Nothing
else of this package does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimix_edge import values
from trimix_edge.config import (
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    RuleChoice,
    Weights,
)
from trimix_edge.errors import UsageError
from trimix_edge.fusion.choose import rule_roles
from trimix_edge.trios.manifest import TrioManifest

if TYPE_CHECKING:
    from trimix_edge.decoding.run import Generation


@dataclass(frozen=True)
class System:
    """One setting of the fusion.

    Attributes:
        weights: in force where the rule does not set them itself.
        roles: the models that must be loaded.
    """

    rule: RuleChoice
    weights: Weights
    plausibility: Plausibility | None = None
    roles: Collection[Role] = ()

    @classmethod
    def choose(
        cls,
        weights: Sequence[str],
        rules: Sequence[str],
        plausibility: Plausibility | None,
        manifest: TrioManifest,
    ) -> tuple[System, ...]:
        """A system for each of the weights and rules that were given; the trio's if none were.

        Raises:
            UsageError: what is given has no meaning, or twice the same.
            TrioConfigError: a role that is needed has no file.
        """
        mask = plausibility or manifest.plausibility
        available = {*manifest.models, *manifest.adapters}
        chosen = [(RuleChoice(), values.weights(text)) for text in weights]
        chosen += [(values.rule(text), manifest.weights) for text in rules]
        systems = tuple(
            cls(rule, pair, mask, frozenset(rule_roles(rule, pair, mask, available)))
            for rule, pair in chosen or [(RuleChoice(), manifest.weights)]
        )
        names = [system.name for system in systems]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{name} is given twice: leave one of --weights or --rule away")
        return systems

    @property
    def name(self) -> str:
        """As on the command line, ``0.1,0.9`` or ``saf:large_ins``: also the name of its folder of
        predictions."""
        if self.rule.name != "trimix":
            return str(self.rule)
        if isinstance(self.weights, FusionWeights):
            return f"{self.weights.large_ins:.12g},{self.weights.small_cpt:.12g}"
        return str(self.weights)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``TriMix.generate``.

        Nothing is drafted: how much is would depend on the clock, and with it, in their last bits,
        the logits; a run that is repeated must end the same.
        """
        return {
            "rule": self.rule,
            "weights": self.weights,
            "plausibility": self.plausibility,
            "draft": Draft(0),
        }

    def weights_used(self, generation: Generation) -> list[float] | None:
        """The weights of large_ins, small_cpt and small_base that made an output; None where there
        was no such triple."""
        used = generation.weights
        return None if used is None else [round(used.of(role), 12) for role in Role]

    def as_json(self) -> dict[str, Any]:
        """All that it takes to have the same system again."""
        in_force = self.rule.weights or self.weights
        weights: Any = str(in_force)
        if self.rule.name == "saf":
            weights = None
        elif isinstance(in_force, FusionWeights):
            weights = {str(role): round(in_force.of(role), 12) for role in Role}
        mask = None if self.plausibility is None else str(self.plausibility)
        rule = str(self.rule)
        return {"name": self.name, "rule": rule, "weights": weights, "plausibility": mask}
