"""Teacher forcing: what the tokens of a known text cost, under the fusion and each model alone.

Rows of logits are used a chunk at a time, straight from llama.cpp's memory, and never kept: memory
is bounded by the chunk, whatever the text's length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from trimix_kernels import token_logprobs

from trimix_edge.config import FusionWeights, Role
from trimix_edge.decoding.feed import Feed, never
from trimix_edge.decoding.trio import Trio
from trimix_edge.errors import PromptError, UsageError
from trimix_edge.fusion.rule import FusionRule, TrioLogits

ScoreProgress = Callable[[int, int], None]
"""Called with the tokens that have been scored, and all of them."""


@dataclass(frozen=True)
class TokenScores:
    """What each token of a text costs under one distribution.

    Attributes:
        logprobs: nats, float64 ``[n_tokens]``.
        greedy: bool ``[n_tokens]``: whether the token is the likeliest one.
        n_bytes: UTF-8 bytes that the tokens stand for.
    """

    logprobs: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]
    n_bytes: int

    @property
    def nll(self) -> float:
        """Mean nats a token."""
        return float(-self.logprobs.mean())

    @property
    def perplexity(self) -> float:
        return _exp(self.nll)

    @property
    def perplexity_error(self) -> float:
        """Standard error of the perplexity, as if tokens were independent; NaN of a single one."""
        n = len(self.logprobs)
        if n < 2:
            return math.nan
        return self.perplexity * float(self.logprobs.std(ddof=1)) / math.sqrt(n)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers; NaN where the tokens stand for no bytes."""
        total = float(-self.logprobs.sum()) / math.log(2)
        return total / self.n_bytes if self.n_bytes else math.nan


@dataclass(frozen=True)
class Score:
    """The score of a text.

    Attributes:
        token_ids: the tokens that were scored: all of the text's, but for the very first one where
            nothing comes before it.
        n_bytes: UTF-8 bytes of those tokens.
        fused: under the fused distribution.
        models: under each model alone.
        weights: those of the fusion; None where they change from token to token.
        chosen_by: how they were chosen, see :attr:`FusionRule.chosen_by`.
        stride: tokens that the window moved by; None where the text fitted into one.
    """

    token_ids: list[int]
    n_bytes: int
    fused: TokenScores
    models: Mapping[Role, TokenScores]
    weights: FusionWeights | None
    stride: int | None = None
    chosen_by: str | None = None


class Piece(NamedTuple):
    """Some consecutive targets, and the logits that predict them.

    Attributes:
        logits: rows of each role, valid until the next piece.
        targets: int32 ``[n_rows]``.
    """

    logits: TrioLogits
    targets: npt.NDArray[np.int32]


def check_stride(stride: int | None, n_ctx: int) -> int:
    """The stride of a sliding window: half the context unless given.

    Raises:
        UsageError: out of range.
    """
    if stride is None:
        return max(1, n_ctx // 2)
    if not 1 <= stride <= n_ctx:
        raise UsageError(f"stride is {stride}, it must be from 1 to the context's {n_ctx}")
    return stride


def teacher_force(
    trio: Trio,
    roles: Collection[Role],
    tokens: Sequence[int],
    first: int,
    stride: int,
    seq: int = 0,
) -> Iterator[Piece]:
    """Run the models over known tokens.

    A text that is longer than the context is read through a window that moves by ``stride`` tokens,
    so that each target sees at least ``n_ctx - stride`` tokens before it. Where the vocabulary has
    BOS added, each window begins with it in its first token's place, as in llama.cpp's perplexity.

    Args:
        roles: loaded ones.
        tokens: all of them.
        first: the first target's index, at least 1.
        stride: from 1 to ``n_ctx``.
        seq: the place in the contexts to use.

    Yields:
        Targets from ``first`` to the end, at most ``trio.max_rows`` at once.
    """
    n_ctx, vocab = trio.n_ctx, trio.vocab
    start, at = 0, first
    while at < len(tokens):
        while at - start > n_ctx:
            start += stride
        start = min(start, at - 1)
        window = list(tokens[start : start + n_ctx])
        if start and vocab.adds_bos and len(window) > 1:
            window[0] = vocab.bos
        # The row after a token predicts the next one: targets end one beyond the window.
        end = min(start + len(window), len(tokens) - 1) + 1
        sequence = trio.sequence(roles, seq=seq)
        seen = at - start - 1
        for begin in range(0, seen, trio.n_batch):
            sequence.decode(window[begin : min(begin + trio.n_batch, seen)], 0, abortable=True)
        while at < end:
            n = min(trio.max_rows, end - at)
            logits = sequence.decode(window[at - start - 1 :][:n], n, abortable=True)
            yield Piece(logits, np.array(tokens[at : at + n], np.int32))
            at += n
        start += stride


class Forced(NamedTuple):
    """A known text: the tokens, and the index of the first one that is a target, at least 1."""

    tokens: Sequence[int]
    first: int


def teacher_force_all(
    trio: Trio, roles: Collection[Role], texts: Sequence[Forced], stride: int
) -> Iterator[Piece]:
    """Run the models over several texts, one after the other or, where they are short, several in
    one batch: as many in a row as it has tokens, rows of logits and sequences for.

    All places in the contexts are used, so nothing else may run.

    Args:
        roles, stride: as for :func:`teacher_force`.

    Yields:
        The targets of all texts, in order, at most ``trio.max_rows`` at once.
    """
    group: list[Forced] = []
    for text in texts:
        if group and not _fit_together(trio, [*group, text]):
            yield _read_together(trio, roles, group)
            group = []
        if _fit_together(trio, [text]):
            group.append(text)
        else:
            yield from teacher_force(trio, roles, text.tokens, text.first, stride)
    if group:
        yield _read_together(trio, roles, group)


def _fit_together(trio: Trio, texts: Sequence[Forced]) -> bool:
    """Whether one batch can read these texts from beginning to end."""
    return (
        len(texts) <= trio.n_parallel
        and sum(len(text.tokens) - 1 for text in texts) <= trio.n_batch
        and sum(len(text.tokens) - text.first for text in texts) <= trio.max_rows
        and max(len(text.tokens) - 1 for text in texts) <= trio.n_ctx
    )


def _read_together(trio: Trio, roles: Collection[Role], texts: Sequence[Forced]) -> Piece:
    feeds = []
    for seq, (tokens, first) in enumerate(texts):
        trio.begin(seq, roles, seq, 0)
        feeds.append(Feed(seq, tokens[:-1], len(tokens) - first, roles))
    logits = trio.decode(feeds, is_cancelled=never)
    targets = [token for tokens, first in texts for token in tokens[first:]]
    return Piece(logits, np.array(targets, np.int32))


class _Tally:
    """Room for the scores of all tokens under one distribution."""

    def __init__(self, n_tokens: int) -> None:
        self._logprobs = np.empty(n_tokens)
        self._greedy = np.empty(n_tokens, np.bool_)
        self._at = 0

    def add(
        self, rows: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], n_vocab: int
    ) -> None:
        part = slice(self._at, self._at + len(targets))
        token_logprobs(rows, targets, n_vocab, self._logprobs[part], self._greedy[part])
        self._at = part.stop

    def scores(self, n_bytes: int) -> TokenScores:
        return TokenScores(self._logprobs, self._greedy, n_bytes)


def score_tokens(
    trio: Trio,
    rule: FusionRule,
    condition: Sequence[int],
    text: Sequence[int],
    n_bytes: int,
    *,
    roles: Collection[Role],
    stride: int | None = None,
    on_progress: ScoreProgress | None = None,
    seq: int = 0,
) -> Score:
    """Score the text's tokens after the condition's, in one pass a model.

    A rule that reads the prompt reads the condition; without one, the text's first window.

    Args:
        n_bytes: UTF-8 bytes of the text.
        roles: also score each of these alone.
        seq: the place in the contexts to use.

    Raises:
        PromptError: there is nothing to score.
        UsageError: the stride is out of range.
    """
    stride = check_stride(stride, trio.n_ctx)
    has_bos = bool(text) and text[0] == trio.vocab.bos and trio.vocab.adds_bos
    n_own = len(text) - int(has_bos and not condition)
    if n_own < (1 if condition else 2):
        least = "one" if condition else "two"
        raise PromptError(f"the text has {n_own} tokens: at least {least} is needed to score it")
    tokens = [*condition, *text]
    first = len(condition) or 1
    if not condition and not has_bos:  # nothing predicts the very first token
        n_bytes -= len(trio.vocab.token_bytes(text[0]))
    loaded = [role for role in Role if role in {*rule.needs, *roles}]
    if rule.reads_prompt:
        _read_prompt(trio, rule, condition or tokens[: trio.n_ctx], seq)
    n_targets, done = len(tokens) - first, 0
    fused, alone = _Tally(n_targets), {role: _Tally(n_targets) for role in loaded if role in roles}
    for logits, targets in teacher_force(trio, loaded, tokens, first, stride, seq):
        fused.add(rule.fuse(logits).logits, targets, trio.n_vocab)
        for role, tally in alone.items():
            tally.add(logits[role], targets, trio.n_vocab)
        done += len(targets)
        if on_progress is not None:
            on_progress(done, n_targets)
    return Score(
        token_ids=tokens[first:],
        n_bytes=n_bytes,
        fused=fused.scores(n_bytes),
        models={role: tally.scores(n_bytes) for role, tally in alone.items()},
        weights=rule.weights,
        stride=stride if len(tokens) > trio.n_ctx + 1 else None,
        chosen_by=rule.chosen_by,
    )


def _read_prompt(trio: Trio, rule: FusionRule, prompt: Sequence[int], seq: int) -> None:
    """Show a rule the prompt, as generation does."""
    rule.begin(prompt)
    if len(prompt) > 1:
        for logits, targets in teacher_force(trio, rule.needs, prompt, 1, trio.n_ctx, seq):
            rule.observe(logits, targets.tolist())


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
