"""Every rule by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection

from trimix_edge.config import (
    FusionWeights,
    Plausibility,
    Role,
    RuleChoice,
)
from trimix_edge.errors import UsageError
from trimix_edge.fusion.by_prompt import DynamicFusion, WeightGrid
from trimix_edge.fusion.linear import LinearFusion
from trimix_edge.fusion.rule import (
    FusedBuffer,
    FusionRule,
)
from trimix_edge.fusion.saf import SafFusion
from trimix_edge.weights import ScriptChoice, WeightChoice, Weights


def rule_roles(
    rule: RuleChoice,
    weights: Weights,
    plausibility: Plausibility | None,
    available: Collection[Role],
) -> set[Role]:
    """The roles that a rule runs: what has to be loaded for it.

    Args:
        available: the roles that have a file.

    Raises:
        TrioConfigError: weights are chosen by prompt, and a role for that has no file.
    """
    needs: set[Role] = {plausibility.role} if plausibility else set()
    if rule.name == "saf":
        return needs | {Role.LARGE_INS, Role.SMALL_CPT}
    in_force = _weights_of(rule, weights)
    if isinstance(in_force, FusionWeights):
        return needs | set(in_force.roles)
    return needs | set(WeightGrid(available).roles)


def make_rule(
    rule: RuleChoice,
    weights: Weights,
    n_vocab: int,
    plausibility: Plausibility | None = None,
    roles: Collection[Role] = tuple(Role),
    buffer: FusedBuffer | None = None,
    token_bytes: Callable[[int], bytes] | None = None,
) -> FusionRule:
    """The rule object of one generation, or of one text's score.

    Args:
        weights: for the rules that do not set them themselves.
        n_vocab: shared vocabulary size.
        roles: the loaded ones, of which weights chosen by prompt may make use.
        buffer: for the fused rows, where several rules take turns.
        token_bytes: the bytes of a token, for weights that are chosen on one script.

    Raises:
        TrioConfigError: weights are chosen by prompt, and a role for that is missing.
    """
    if rule.name == "saf":
        return SafFusion(rule.role or Role.SMALL_CPT, n_vocab, plausibility, buffer)
    in_force = _weights_of(rule, weights)
    if isinstance(in_force, FusionWeights):
        return LinearFusion(in_force, n_vocab, plausibility, buffer)
    return DynamicFusion(in_force, roles, n_vocab, plausibility, buffer, token_bytes)


def _weights_of(rule: RuleChoice, weights: Weights) -> Weights:
    in_force = rule.weights or weights
    if not isinstance(in_force, FusionWeights | WeightChoice | ScriptChoice):
        raise UsageError(
            f"weights are {in_force!r}: give FusionWeights(large_ins, small_cpt), a WeightChoice "
            f"or a ScriptChoice"
        )
    return in_force
