"""Continuous batching: all running sequences share each step. Token ids only, no text.

A step is schedule, run, postprocess (as in vLLM, Kwon et al., SOSP 2023; iteration-level scheduling
is Orca's, Yu et al., OSDI 2022). One sequence is the special case of one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Role
from trimix_edge.decoding.drafting import Drafting
from trimix_edge.decoding.feed import Feed
from trimix_edge.decoding.scheduler import Group, Places, Scheduler, Work
from trimix_edge.decoding.sequence import FinishReason, Token
from trimix_edge.decoding.sequence import Sequence as TokenSequence
from trimix_edge.decoding.token_info import describe
from trimix_edge.errors import ContextOverflowError, DecodeError, PromptError
from trimix_edge.fusion.rule import Fused, TrioLogits
from trimix_edge.llama.context import ABORTED

Output = tuple[TokenSequence, Token | None]
"""A sequence and its next token; None where it ended without one."""


class Models(Places, Protocol):
    """What the engine needs of a :class:`~trimix_edge.decoding.trio.Trio`."""

    decode_seconds: dict[Role, float]

    @property
    def n_ctx(self) -> int: ...
    def truncate(self, seq: int, n_past: int, roles: Collection[Role]) -> None: ...
    def decode(
        self, feeds: Sequence[Feed], *, is_cancelled: Callable[[], bool] | None = None
    ) -> TrioLogits: ...


class Engine:
    """Fused generation of several sequences at once.

    :meth:`add` and :meth:`cancel` may be called from any thread; :meth:`step` from one at a time.

    Args:
        models: the trio.
        is_end: whether a token ends the generation.
        n_vocab: shared vocabulary size.
    """

    def __init__(self, models: Models, is_end: Callable[[int], bool], n_vocab: int) -> None:
        self._models = models
        self._is_end = is_end
        self._n_vocab = n_vocab
        self.scheduler = Scheduler(models)
        self.drafting = Drafting(models, is_end, n_vocab)

    @property
    def is_idle(self) -> bool:
        """Whether no sequence is waiting or running, but cancelled ones."""
        return all(sequence.cancelled for sequence in self._everyone)

    @property
    def _everyone(self) -> tuple[TokenSequence, ...]:
        return (*self.scheduler.waiting, *self.scheduler.running)

    def add(self, sequence: TokenSequence) -> None:
        """Queue a sequence; it starts with the first step that has room for it.

        Raises:
            PromptError: the prompt has no tokens.
            ContextOverflowError: the prompt leaves no room for an answer.
        """
        self.check(sequence.prompt)
        self.scheduler.add(sequence)

    def check(self, prompt: Sequence[int]) -> None:
        """Raise as :meth:`add` does."""
        if not prompt:
            raise PromptError("the prompt is empty: there is nothing to continue")
        if len(prompt) >= self._models.n_ctx:
            raise ContextOverflowError(len(prompt), self._models.n_ctx)

    def cancel(self, sequence: TokenSequence) -> None:
        """End a sequence before the next step, or during this one if nobody else is in it."""
        sequence.cancelled = True

    def step(self) -> list[Output]:
        """One decode of each model for all running sequences.

        Returns:
            The tokens that were chosen, in order; none while only prompts are read.

        """
        start = perf_counter()
        outputs = self.remove_cancelled()
        self.scheduler.admit()
        groups = self.scheduler.schedule()
        if not groups:
            return outputs
        before = dict(self._models.decode_seconds)
        try:
            self._run(groups)
        except DecodeError as error:
            if error.code == ABORTED:  # everyone was cancelled, or Ctrl-C: the next step goes on
                return outputs
            stopped = [work.sequence for group in groups for work in group.work]
            return [*outputs, *(self._fail(sequence, error) for sequence in stopped)]
        spent = {role: s - before[role] for role, s in self._models.decode_seconds.items()}
        for group in groups:
            outputs.extend(self._postprocess(group))
        for group in groups:
            for work in group.work:
                _account(work, perf_counter() - start, spent)
        return outputs

    def remove_cancelled(self) -> list[Output]:
        """Free the places of cancelled sequences now, as each step does."""
        cancelled = [sequence for sequence in self._everyone if sequence.cancelled]
        for sequence in cancelled:
            self._finish(sequence, "cancelled")
        return [(sequence, None) for sequence in cancelled]

    def _run(self, groups: list[Group]) -> None:
        work = [work for group in groups for work in group.work]
        alone = work[0].sequence if len(work) == 1 else None
        if alone is not None and not work[0].reads and alone.draft.n_tokens != 0:
            groups[0].logits, work[0].draft = self.drafting.run(alone, self._room(alone) - 1)
            work[0].n_rows = 1 + len(work[0].draft)
            alone.batched |= bool(work[0].draft)
            return
        feeds = [
            Feed(w.sequence.seq, w.tokens, w.n_rows, group.roles)
            for group in groups
            for w in group.work
        ]

        def is_cancelled() -> bool:
            return all(w.sequence.cancelled for w in work)

        reading = any(w.reads for w in work)
        logits = self._models.decode(feeds, is_cancelled=is_cancelled if reading else None)
        at = dict.fromkeys(logits, 0)
        for group in groups:
            n = group.n_rows
            if n:
                group.logits = {r: logits[r][at[r] : at[r] + n] for r in group.roles}
                at.update({r: at[r] + n for r in group.roles})
        if len(work) > 1:
            for w in work:
                w.sequence.batched = True

    def _postprocess(self, group: Group) -> Iterator[Output]:
        """Fuse the rows of a group, and let each of its sequences choose from its own."""
        for work in group.work:
            if work.reads:
                yield from self._read(work, group.logits)
        if all(work.sequence.is_reading for work in group.work):
            return
        first = group.work[0]
        if first.reads and first.sequence.rule.reads_prompt:  # it has a row for each of its tokens
            group.logits, first.n_rows = _rows(group.logits, slice(-1, None)), 1
        start = perf_counter()
        fused = first.sequence.rule.fuse(group.logits)
        seconds, row = perf_counter() - start, 0
        for work in group.work:
            is_over = work.sequence.finish_reason is not None
            if work.n_rows and not work.sequence.is_reading and not is_over:
                work.sequence.timings.fusion += seconds
                yield from self._emit(work, group.logits, fused, row)
            row += work.n_rows

    def _read(self, work: Work, logits: TrioLogits) -> Iterator[Output]:
        """A part of a prompt was evaluated."""
        sequence = work.sequence
        at = sequence.n_read
        sequence.n_read += len(work.tokens)
        if sequence.rule.reads_prompt:
            targets = sequence.prompt[at + 1 : sequence.n_read + 1]
            sequence.rule.observe(_rows(logits, slice(0, len(targets))), targets)
        if sequence.on_progress is not None:
            try:
                sequence.on_progress(sequence.n_read, len(sequence.prompt))
            except Exception as error:  # the others of this step have no part in it
                yield self._fail(sequence, error)
        if not sequence.is_reading:
            sequence.sampler.accept_prompt(sequence.prompt)

    def _emit(self, work: Work, logits: TrioLogits, fused: Fused, first: int) -> Iterator[Output]:
        """Choose from each row as long as the tokens chosen are those that were drafted.

        This is the whole of the guarantee: a token is only ever chosen by the sampler, from the
        fused row after the very tokens that were emitted before it.
        """
        sequence, n_before = work.sequence, len(work.sequence.generated)
        if sequence.max_tokens == 0:
            yield self._finish(sequence, "length"), None
            return
        for row, drafted in enumerate((*work.draft, None), first):
            start = perf_counter()
            try:
                token = sequence.sampler.choose(fused.logits[row], int(fused.best[row]))
            except DecodeError as error:
                yield self._fail(sequence, error)
                break
            sequence.generated.append(token)
            sequence.drafted.accepted += token == drafted
            reason = self._finish_reason(sequence, token)
            if reason is None:
                sequence.sampler.accept(token)
            sequence.timings.sampling += perf_counter() - start
            info = describe(sequence, logits, fused.logits[row], row, token, self._n_vocab)
            yield sequence, info._replace(finish_reason=reason, drafted=token == drafted)
            if reason is not None:
                self._finish(sequence, reason)
            if token != drafted or reason is not None:
                break
        if work.draft:
            self._models.truncate(sequence.seq, len(sequence) - 1, sequence.rule.needs)
        self.drafting.learn(len(sequence.generated) - n_before)

    def _room(self, sequence: TokenSequence) -> int:
        """Tokens that may still be emitted."""
        in_context = self._models.n_ctx - len(sequence)
        if sequence.max_tokens is None:
            return in_context
        return min(in_context, sequence.max_tokens - len(sequence.generated))

    def _finish_reason(self, sequence: TokenSequence, token: int) -> FinishReason | None:
        if self._is_end(token) and not sequence.ignore_end:
            return "end"
        if sequence.max_tokens is not None and len(sequence.generated) >= sequence.max_tokens:
            return "length"
        if len(sequence) >= self._models.n_ctx:
            return "context"
        return None

    def _fail(self, sequence: TokenSequence, error: Exception) -> Output:
        sequence.error = error
        return self._finish(sequence, "error"), None

    def _finish(self, sequence: TokenSequence, reason: FinishReason) -> TokenSequence:
        sequence.finish_reason = reason
        self.scheduler.remove(sequence)
        return sequence


def _rows(logits: TrioLogits, part: slice) -> dict[Role, npt.NDArray[np.float32]]:
    return {role: rows[part] for role, rows in logits.items()}


def _account(work: Work, seconds: float, spent: Mapping[Role, float]) -> None:
    timings = work.sequence.timings
    if work.reads:
        timings.prompt += seconds
        timings.prompt_models += sum(spent.values())
    else:
        timings.generation += seconds
    for role, role_seconds in spent.items():
        timings.models[role] = timings.models.get(role, 0.0) + role_seconds
