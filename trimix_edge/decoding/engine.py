"""The loop that makes tokens: evaluate, fuse, choose, append. Token ids only, no text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Role
from trimix_edge.decoding.sequence import FinishReason, Sequence
from trimix_edge.errors import ContextOverflowError, PromptError
from trimix_edge.fusion.rule import Evaluated, FusionRule, TrioLogits

PromptProgress = Callable[[int, int], None]
"""Called with the tokens of the prompt that have been evaluated, and all of them."""


class Token(NamedTuple):
    """A generated token; if asked for, its fused log-probability in nats, and what part each role
    had in its choice (:meth:`FusionRule.shares`)."""

    id: int
    logprob: float | None
    shares: Mapping[Role, float] | None


class Models(Protocol):
    """What the engine needs of a :class:`~trimix_edge.decoding.trio.Trio`."""

    decode_seconds: dict[Role, float]

    @property
    def n_ctx(self) -> int: ...
    @property
    def n_batch(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    def start(self, roles: Collection[Role], prompt: list[int]) -> int: ...
    def focus(self, roles: Collection[Role]) -> None: ...
    def truncate(self, n_past: int) -> None: ...
    def decode(
        self, tokens: list[int], n_rows: int = 1, *, abortable: bool = False
    ) -> TrioLogits: ...


class Chooser(Protocol):
    """What the engine needs of a :class:`~trimix_edge.llama.Sampler`."""

    def choose(self, logits: npt.NDArray[np.float32], best: int) -> int: ...
    def accept(self, token: int) -> None: ...
    def accept_prompt(self, tokens: list[int]) -> None: ...


class Lookahead(Protocol):
    """How the engine gets on: one token after the other, or some of them guessed at once."""

    def advance(self, sequence: Sequence, limit: int) -> Evaluated:
        """Evaluate the last token, and at most ``limit`` guesses at the next ones."""

    def learn(self, emitted: list[int], seconds: float) -> None:
        """Hear which tokens were emitted from what :meth:`advance` had evaluated, and how long
        fusing and choosing took."""


class OneByOne:
    """The plain way: no guesses."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def advance(self, sequence: Sequence, limit: int) -> Evaluated:
        return Evaluated(self._models.decode([sequence.last]), ())

    def learn(self, emitted: list[int], seconds: float) -> None:
        """Nothing was guessed."""


class Engine:
    """Fused generation.

    Args:
        models: the trio.
        rule: how logits are fused.
        sampler: how a token is chosen from the fused row.
        is_end: whether a token ends the generation.
        lookahead: how to get on; one token at a time if absent.
        logprobs: compute each token's log-probability, one more pass over the vocabulary.
        explain: compute what part each role had in each token.
    """

    def __init__(
        self,
        models: Models,
        rule: FusionRule,
        sampler: Chooser,
        is_end: Callable[[int], bool],
        *,
        lookahead: Lookahead | None = None,
        logprobs: bool = False,
        explain: bool = False,
    ) -> None:
        self._models = models
        self._rule = rule
        self._sampler = sampler
        self._is_end = is_end
        self._lookahead = lookahead or OneByOne(models)
        self._logprobs = logprobs
        self._explain = explain

    def prefill(self, sequence: Sequence, on_progress: PromptProgress | None = None) -> TrioLogits:
        """Evaluate the prompt in chunks.

        Returns:
            The logits after its last token, one row a role.

        Raises:
            PromptError: the prompt has no tokens.
            ContextOverflowError: the prompt leaves no room for an answer.
        """
        prompt = sequence.prompt
        n, chunk = len(prompt), self._models.n_batch
        if n == 0:
            raise PromptError("the prompt is empty: there is nothing to continue")
        if n >= self._models.n_ctx:
            raise ContextOverflowError(n, self._models.n_ctx)
        start = perf_counter()
        reads = self._rule.reads_prompt
        if reads:  # a piece has a row of logits for each token
            chunk = min(chunk, self._models.max_rows)
        kept = self._models.start(self._rule.needs, [] if reads else prompt)
        sequence.n_kept = kept
        for at in range(kept, n, chunk):
            piece = prompt[at : at + chunk]
            is_last = at + len(piece) == n
            n_rows = len(piece) if reads else int(is_last)
            logits = self._models.decode(piece, n_rows, abortable=True)
            if reads:
                targets = prompt[at + 1 : at + 1 + len(piece)]
                self._rule.observe(_rows(logits, slice(0, len(targets))), targets)
            if on_progress is not None:
                on_progress(at + len(piece), n)
        if reads:
            self._models.focus(self._rule.needs)
            logits = _rows(logits, slice(-1, None))
        self._sampler.accept_prompt(prompt)
        sequence.timings.prompt = perf_counter() - start
        return logits

    def generate(
        self,
        sequence: Sequence,
        max_tokens: int | None = None,
        on_progress: PromptProgress | None = None,
    ) -> Iterator[Token]:
        """Yield the tokens that continue the prompt, an end-of-generation token last.

        Afterwards ``sequence.finish_reason`` says why it ended, unless the caller stopped first.

        Args:
            max_tokens: None for as many as the context holds.
            on_progress: see :meth:`prefill`.
        """
        evaluated = Evaluated(self.prefill(sequence, on_progress), ())
        sequence.timings.models = self._models.decode_seconds
        sequence.timings.prompt_models = sum(self._models.decode_seconds.values())
        if max_tokens == 0:
            sequence.finish_reason = "length"
        while sequence.finish_reason is None:
            n_before, before = len(sequence.generated), sequence.timings.generation
            yield from self._emit(sequence, evaluated, max_tokens)
            if sequence.finish_reason is None:
                start = perf_counter()
                self._models.truncate(len(sequence) - 1)  # drafted tokens that were not emitted
                emitted, seconds = (
                    sequence.generated[n_before:],
                    sequence.timings.generation - before,
                )
                self._lookahead.learn(emitted, seconds)
                evaluated = self._lookahead.advance(sequence, self._room(sequence, max_tokens) - 1)
                sequence.timings.generation += perf_counter() - start

    def _emit(
        self, sequence: Sequence, evaluated: Evaluated, max_tokens: int | None
    ) -> Iterator[Token]:
        """Fuse all rows, and emit as long as the tokens chosen are those that were drafted.

        This is the whole of the guarantee: a token is only ever chosen by the sampler, from the
        fused row after the very tokens that were emitted before it.
        """
        start = perf_counter()
        fused = self._rule.fuse(evaluated.logits)
        timings = sequence.timings
        timings.fusion += perf_counter() - start
        for row, drafted in enumerate((*evaluated.draft, None)):
            chosen_from = perf_counter()
            token = self._sampler.choose(fused.logits[row], int(fused.best[row]))
            sequence.append(token)
            timings.sampling += perf_counter() - chosen_from
            sequence.finish_reason = self._finish_reason(sequence, token, max_tokens)
            sequence.draft.accepted += token == drafted
            emitted = self._token(evaluated.logits, fused.logits[row], row, token)
            if sequence.finish_reason is None:
                self._sampler.accept(token)
            timings.generation += perf_counter() - start
            yield emitted
            start = perf_counter()
            if token != drafted or sequence.finish_reason is not None:
                break

    def _token(
        self, logits: TrioLogits, fused_row: npt.NDArray[np.float32], row: int, token: int
    ) -> Token:
        return Token(
            token,
            _logprob(fused_row, token) if self._logprobs else None,
            self._rule.shares(logits, row, fused_row, token) if self._explain else None,
        )

    def _room(self, sequence: Sequence, max_tokens: int | None) -> int:
        """Tokens that may still be emitted."""
        in_context = self._models.n_ctx - len(sequence)
        return (
            in_context
            if max_tokens is None
            else min(in_context, max_tokens - len(sequence.generated))
        )

    def _finish_reason(
        self, sequence: Sequence, token: int, max_tokens: int | None
    ) -> FinishReason | None:
        if self._is_end(token):
            return "end"
        if max_tokens is not None and len(sequence.generated) >= max_tokens:
            return "length"
        if len(sequence) >= self._models.n_ctx:
            return "context"
        return None


def _rows(logits: TrioLogits, part: slice) -> TrioLogits:
    return {role: rows[part] for role, rows in logits.items()}


def _logprob(row: npt.NDArray[np.float32], token: int) -> float:
    shifted = row.astype(np.float64) - row.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
