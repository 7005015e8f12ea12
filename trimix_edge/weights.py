"""Weights as settings: a pair for all prompts, or how one is chosen for each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from trimix_edge.config import FusionWeights
from trimix_edge.scripts import check_script


class WeightChoice(str, Enum):
    """Weights that are chosen anew for each prompt, from the paper's grid, without labels.

    ``ALL`` is TriMix-PPL: the pair under which the prompt itself is likeliest. ``AUTO`` is the same
    on the tokens of the trio's script alone, see :class:`ScriptChoice`, and ``ALL`` where the trio
    names none. ``ENTROPY`` is TriMix-ENT: the pair that is surest of the first generated token.
    """

    AUTO = "auto"
    ALL = "auto:all"
    ENTROPY = "entropy"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ScriptChoice:
    """TriMix-PPL on one language: the pair under which those tokens of the prompt are likeliest
    whose bytes are of its script. Not in the paper, whose prompts are mostly in one language.

    Args:
        script: ISO 15924, as ``Tibt``.

    Raises:
        UsageError: there is no such script.
    """

    script: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "script", check_script(self.script))

    def __str__(self) -> str:
        return f"auto:{self.script}"


Weights = FusionWeights | WeightChoice | ScriptChoice
"""A pair for all prompts, or how one is chosen for each."""


def of_trio(weights: Weights, script: str | None) -> Weights:
    """What ``auto`` means in a trio that names this script; all others mean the same everywhere."""
    return ScriptChoice(script) if weights is WeightChoice.AUTO and script else weights
