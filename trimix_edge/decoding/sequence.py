"""The ids of one generation, why it ended, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trimix_edge.config import Role

FinishReason = Literal["end", "stop", "length", "context"]
"""``end``: an end-of-generation token; ``stop``: a stop string; ``length``: ``max_tokens``;
``context``: the context is full."""


@dataclass
class DraftCounts:
    """What drafting did in one generation.

    Attributes:
        rounds: times that a batch with drafted tokens in it was verified.
        drafted: tokens that were guessed and put into such a batch.
        accepted: those of them that were emitted.
        looked_up: those of ``drafted`` that were copied from earlier text, not from a model.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    looked_up: int = 0


@dataclass
class Timings:
    """Seconds by stage and by model.

    Attributes:
        prompt: evaluating the prompt.
        generation: everything from the prompt's logits to the last token.
        models: inside ``llama_decode`` and waiting for its logits, prompt included.
        prompt_models: the part of ``models`` that went into the prompt, all roles together.
        fusion: in the fusion rule.
        sampling: in the samplers.
        drafting: choosing what to draft, outside the models.
    """

    prompt: float = 0.0
    generation: float = 0.0
    models: dict[Role, float] = field(default_factory=dict)
    prompt_models: float = 0.0
    fusion: float = 0.0
    sampling: float = 0.0
    drafting: float = 0.0

    @property
    def outside(self) -> float:
        """The part of ``generation`` that was not spent in the models."""
        return self.generation - (sum(self.models.values()) - self.prompt_models)


@dataclass
class Sequence:
    """Token ids: first the prompt's, then the generated ones.

    Attributes:
        n_kept: tokens of the prompt that were still in the contexts from before.
    """

    prompt: list[int]
    generated: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    timings: Timings = field(default_factory=Timings)
    draft: DraftCounts = field(default_factory=DraftCounts)
    n_kept: int = 0

    @property
    def last(self) -> int:
        """The token that was appended last."""
        return self.generated[-1] if self.generated else self.prompt[-1]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.generated)

    def append(self, token: int) -> None:
        self.generated.append(token)
