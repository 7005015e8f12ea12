"""What is compared: fusion rules and their weights, on models that are loaded once.

A system knows its name, the roles that it needs, and what it hands to ``TriMix.generate``. Nothing
else of this package does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trimix_edge import values
from trimix_edge.config import (
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    RuleChoice,
)
from trimix_edge.errors import UsageError
from trimix_edge.fusion.choose import rule_roles
from trimix_edge.trios.manifest import TrioManifest
from trimix_edge.weights import Weights, of_trio

if TYPE_CHECKING:
    from trimix_edge.decoding.run import Generation


SAF_AUTO = "saf:auto"
HOSTS = (Role.LARGE_INS, Role.SMALL_CPT)
"""Those that SAF-W may have; where both are as good on dev, the first one is taken."""


@dataclass(frozen=True)
class System:
    """One setting of the fusion.

    Attributes:
        weights: in force where the rule does not set them itself.
        roles: the models that must be loaded.
        picks_host: SAF-W, whose host is the one that does better on a cell's dev data.
    """

    rule: RuleChoice
    weights: Weights
    plausibility: Plausibility | None = None
    roles: Collection[Role] = ()
    picks_host: bool = False

    @classmethod
    def choose(
        cls,
        weights: Sequence[str],
        rules: Sequence[str],
        plausibility: Plausibility | None,
        manifest: TrioManifest,
        *,
        dev: bool = False,
    ) -> tuple[System, ...]:
        """A system for each of the weights and rules that were given; the trio's if none were.

        Args:
            dev: dev data may be read, by systems that choose something on them.

        Raises:
            UsageError: what is given has no meaning, or twice the same.
            TrioConfigError: a role that is needed has no file.
        """
        mask = plausibility or manifest.plausibility
        available = {*manifest.models, *manifest.adapters}
        chosen = [(RuleChoice(), values.weights(text)) for text in weights]
        chosen += [
            (values.rule("saf" if text == SAF_AUTO else text), manifest.weights) for text in rules
        ]
        if (SAF_AUTO in rules) != dev:
            raise UsageError(
                "rule saf:auto chooses its host on dev data: give --dev beside it"
                if SAF_AUTO in rules
                else "--dev is for rules that choose on dev data: give --rule saf:auto beside it, "
                "or --split dev to evaluate on them"
            )
        systems = tuple(
            cls(
                rule,
                of_trio(pair, manifest.script),
                mask,
                frozenset(rule_roles(rule, pair, mask, available)),
            )
            for rule, pair in chosen or [(RuleChoice(), manifest.weights)]
        )
        systems = tuple(
            replace(system, picks_host=text == SAF_AUTO)
            for system, text in zip(systems, [*weights, *rules] or [""], strict=True)
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
        if self.picks_host:
            return SAF_AUTO
        if self.rule.name != "trimix":
            return str(self.rule)
        if isinstance(self.weights, FusionWeights):
            return f"{self.weights.large_ins:.12g},{self.weights.small_cpt:.12g}"
        return str(self.weights)

    def with_host(self, host: Role) -> System:
        """The same system with a host that is no longer to be chosen."""
        return replace(self, rule=RuleChoice("saf", host), picks_host=False)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``TriMix.generate``.

        Nothing is drafted: how much is would depend on the clock, and with it, in their last bits,
        the logits; a run that is repeated must end the same.
        """
        return {
            "rule": self.rule,
            "weights": self.weights if self.rule.name == "trimix" else None,
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
        rule = SAF_AUTO if self.picks_host else str(self.rule)
        return {"name": self.name, "rule": rule, "weights": weights, "plausibility": mask}
