"""One generation: its tokens become text, chunk by chunk, and a result at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from trimix_edge.config import FusionWeights, Role
from trimix_edge.decoding.repetition import Repetition, repetition
from trimix_edge.decoding.sequence import DraftCounts, FinishReason, Sequence, Timings, Token
from trimix_edge.decoding.text import TextStream
from trimix_edge.errors import UsageError, notice

_Item = TypeVar("_Item")

NO_TOKEN = -1
"""The ``token_id`` of a chunk that ends a generation without a token."""


@dataclass(frozen=True)
class GenerationChunk:
    """What one token adds.

    Attributes:
        text: whole characters; empty while a character, or a possible stop string, is incomplete.
        token_id: the token that was added; -1 where the generation ended without one.
        bytes: what the token stands for, often a part of a character.
        logprob: nats under the fused distribution, if asked for.
        top: the likeliest tokens and their nats, if asked for, best first.
        finish_reason: given by the last chunk only.
        weights: those in force, also where they were chosen for this prompt.
        shares: which model carried the token, if asked for: see :meth:`FusionRule.shares`.
        models: with ``explain``, each model's own likeliest tokens and their probabilities.
        drafted: whether the token had been drafted.
    """

    text: str
    token_id: int
    bytes: bytes = b""
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    finish_reason: FinishReason | None = None
    weights: FusionWeights | None = None
    shares: Mapping[Role, float] | None = None
    models: Mapping[Role, list[tuple[int, float]]] | None = None
    drafted: bool = False


@dataclass(frozen=True)
class Generation:
    """A whole generation: ``text`` and everything that is needed to understand or repeat it.

    Attributes:
        weights: those in force, also where they were chosen for this prompt; None under a rule
            whose weights change from token to token.
        draft: what was drafted, and how much of it was accepted.
        n_kept: tokens of the prompt that did not have to be evaluated again.
        logprobs: nats of each token, if asked for.
        top: the likeliest tokens at each place, if asked for.
        shares: of each token, which model carried it, if asked for.
        batched: whether the tokens may depend on batches: rows of other sequences, or drafted
            tokens, were evaluated in the same batch, or a part of the prompt had been evaluated
            before, in batches that another prompt had cut. llama.cpp rounds otherwise then: where
            two tokens are nearly equally likely, another batch can choose the other one. Never
            with ``repeatable``.
        repetition: the loop that the text ends in; None where it does not.
        chosen_by: how the weights were chosen for this prompt: see :attr:`FusionRule.chosen_by`.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: FinishReason | None
    weights: FusionWeights | None
    seed: int
    timings: Timings
    draft: DraftCounts
    n_kept: int
    logprobs: list[float] | None = None
    top: list[list[tuple[int, float]]] | None = None
    shares: list[Mapping[Role, float]] | None = None
    batched: bool = False
    repetition: Repetition | None = None
    chosen_by: str | None = None


@dataclass(eq=False)
class Run:
    """A generation that was submitted.

    Attributes:
        sequence: its tokens.
        seed: of its sampler.
        is_limit_asked: whether somebody has asked for the limit of tokens.
        finished: whether its last chunk is there.
    """

    sequence: Sequence
    seed: int
    token_bytes: Callable[[int], bytes]
    stop: Iterable[str] = ()
    is_limit_asked: bool = True
    finished: bool = False
    _chunks: deque[GenerationChunk] = field(default_factory=deque)
    _all: list[GenerationChunk] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._text = TextStream(self.stop)
        self._abandoned = False

    @property
    def prompt_token_ids(self) -> list[int]:
        return self.sequence.prompt

    @property
    def n_kept(self) -> int:
        """Tokens of the prompt that did not have to be evaluated again."""
        return self.sequence.n_kept

    @property
    def timings(self) -> Timings:
        return self.sequence.timings

    @property
    def error(self) -> Exception | None:
        """What ended it, where its finish reason is ``error``."""
        return self.sequence.error

    def cancel(self) -> None:
        """Let it end before the next token; safe to call from any thread, and again."""
        self.sequence.cancelled = True

    def abandon(self) -> None:
        """The models are about to be freed."""
        self._abandoned = True
        self._end()

    def _end(self) -> None:
        self.finished = True
        self.sequence.sampler.close()

    def put(self, token: Token | None) -> GenerationChunk | None:
        """Take the next token of the engine; None where the sequence ended without one.

        Returns:
            The chunk it became; None for tokens after a stop string.
        """
        if self.finished:
            return None
        sequence, text = self.sequence, self._text
        if token is None:
            shown = text.finish()
            chunk = GenerationChunk(
                shown, NO_TOKEN, finish_reason=sequence.finish_reason, weights=sequence.rule.weights
            )
        else:
            piece = self.token_bytes(token.id)
            shown, reason = text.push(piece), token.finish_reason
            if text.stopped:
                reason = "stop"
                sequence.cancelled = True
            elif reason is not None:
                shown += text.finish()
            chunk = GenerationChunk(
                text=shown,
                token_id=token.id,
                bytes=piece,
                logprob=token.logprob,
                top=token.top,
                finish_reason=reason,
                weights=sequence.rule.weights,
                shares=token.shares,
                models=token.models,
                drafted=token.drafted,
            )
        self._chunks.append(chunk)
        self._all.append(chunk)
        if chunk.finish_reason is not None:
            self._end()
        return chunk

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`take` has something to say."""
        return bool(self._chunks) or self.finished

    def take(self) -> GenerationChunk | None:
        """The next chunk; None after the last.

        Raises:
            UsageError: the models were closed before the end.
            DecodeError: what ended the generation.
        """
        if self._chunks:
            chunk = self._chunks.popleft()
            if chunk.finish_reason is not None:
                self.tell()
            if chunk.token_id != NO_TOKEN or chunk.text:
                return chunk
        if self._abandoned:
            raise UsageError("the models were closed before this generation ended")
        if self.error is not None:
            raise self.error
        return None

    def tell(self) -> None:
        """Say, as notices, what a person should know of how the text ended."""
        sequence = self.sequence
        if sequence.finish_reason == "length" and not self.is_limit_asked:
            notice(
                f"the text was ended at {sequence.max_tokens} tokens, the limit where none is "
                f"given: max_tokens -1 is as many as the context holds"
            )
        if repetition(sequence.generated):
            notice(
                "a text repeats its last words over and over: a higher temperature or "
                "repeat_penalty may help"
            )

    def result(self) -> Generation:
        """What came of it, once it has finished."""
        sequence = self.sequence
        chunks = [chunk for chunk in self._all if chunk.token_id != NO_TOKEN]
        return Generation(
            text="".join(chunk.text for chunk in self._all),
            token_ids=[chunk.token_id for chunk in chunks],
            prompt_token_ids=sequence.prompt,
            finish_reason=self._all[-1].finish_reason if self._all else sequence.finish_reason,
            weights=sequence.rule.weights,
            seed=self.seed,
            timings=sequence.timings,
            draft=sequence.drafted,
            n_kept=sequence.n_kept,
            logprobs=_all_of([chunk.logprob for chunk in chunks], sequence.top >= 0),
            top=_all_of([chunk.top for chunk in chunks], sequence.top > 0),
            shares=_all_of([chunk.shares for chunk in chunks], sequence.explain),
            batched=sequence.batched or sequence.n_kept > 0,
            repetition=repetition(sequence.generated),
            chosen_by=sequence.rule.chosen_by,
        )


def _all_of(values: list[_Item | None], wanted: bool) -> list[_Item] | None:
    return [value for value in values if value is not None] if wanted else None
