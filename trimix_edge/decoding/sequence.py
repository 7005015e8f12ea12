"""One request: its ids, how they are chosen, why it ended, and where its time went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Draft, Role
from trimix_edge.fusion.rule import FusionRule

PromptProgress = Callable[[int, int], None]
"""Called with the tokens of the prompt that have been evaluated, and all of them."""

FinishReason = Literal["end", "stop", "length", "context", "cancelled", "error"]
"""``end``: an end-of-generation token; ``stop``: a stop string; ``length``: ``max_tokens``;
``context``: the context is full; ``cancelled``: nobody waits for it any more; ``error``: its
``error`` says what happened."""


class Chooser(Protocol):
    """What is needed of a :class:`~trimix_edge.llama.Sampler`."""

    def choose(self, logits: npt.NDArray[np.float32], best: int) -> int: ...
    def accept(self, token: int) -> None: ...
    def accept_prompt(self, tokens: list[int]) -> None: ...
    def clone(self) -> Chooser: ...
    def close(self) -> None: ...


class Token(NamedTuple):
    """A generated token, and what was asked for.

    Attributes:
        id: the token.
        finish_reason: given by the last token only.
        logprob: nats under the fused distribution.
        top: the likeliest tokens and their nats, best first.
        shares: what part each role had in its choice (:meth:`FusionRule.shares`).
        models: each role's own likeliest tokens and their probabilities.
        drafted: whether it had been drafted.
    """

    id: int
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    shares: Mapping[Role, float] | None = None
    models: Mapping[Role, list[tuple[int, float]]] | None = None
    drafted: bool = False


@dataclass
class DraftCounts:
    """What drafting did in one generation.

    Attributes:
        rounds: times that a batch with drafted tokens in it was verified.
        drafted: tokens that were guessed and put into such a batch.
        accepted: those of them that were emitted.
        from_ngrams: those of ``drafted`` that an n-gram lookup found, not a model.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    from_ngrams: int = 0


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


@dataclass(eq=False)
class Sequence:
    """One request: its token ids, how they are chosen, and how far it has come.

    Attributes:
        prompt, generated: token ids.
        rule, sampler: its own; weights by prompt differ from sequence to sequence.
        max_tokens: tokens to generate at most; None for as many as the context holds.
        draft: how many tokens are drafted at once while it runs alone.
        ignore_end: go on after an end-of-generation token, for timings.
        top: log-probabilities are computed: of the token, and of this many likeliest ones; -1 for
            none at all.
        explain: compute what part each role had in each token.
        reuse: begin with what the contexts hold of the prompt.
        on_progress: called with the evaluated and all tokens of the prompt.
        seq: its place in the contexts while it runs, else -1.
        n_read: tokens of the prompt that are in the contexts.
        n_kept: tokens of the prompt that were still in the contexts from before.
        batched: whether other rows were evaluated in the same batch as one of its own.
        cancelled: whoever waits for it has gone.
        error: what ended it, where ``finish_reason`` is ``error``.
    """

    prompt: list[int]
    rule: FusionRule
    sampler: Chooser
    max_tokens: int | None = None
    draft: Draft = field(default_factory=lambda: Draft(0))
    ignore_end: bool = False
    top: int = -1
    explain: bool = False
    reuse: bool = True
    on_progress: PromptProgress | None = None
    generated: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    timings: Timings = field(default_factory=Timings)
    drafted: DraftCounts = field(default_factory=DraftCounts)
    seq: int = -1
    n_read: int = 0
    n_kept: int = 0
    batched: bool = False
    cancelled: bool = False
    error: Exception | None = None

    @property
    def last(self) -> int:
        """The token that was appended last."""
        return self.generated[-1] if self.generated else self.prompt[-1]

    @property
    def is_reading(self) -> bool:
        """Whether a part of the prompt is still to be evaluated."""
        return self.n_read < len(self.prompt)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.generated)
