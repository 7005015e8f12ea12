"""One generation: its settings, its sampler's life, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

from trimix_edge.config import (
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    RuleChoice,
    SamplingParams,
    Weights,
)
from trimix_edge.decoding.engine import Engine, PromptProgress
from trimix_edge.decoding.experience import Experience
from trimix_edge.decoding.sequence import DraftCounts, FinishReason, Timings
from trimix_edge.decoding.sequence import Sequence as TokenSequence
from trimix_edge.decoding.speculative import Speculation
from trimix_edge.decoding.text import TextStream
from trimix_edge.decoding.trio import Trio
from trimix_edge.errors import UsageError
from trimix_edge.fusion.rule import FusionRule
from trimix_edge.llama import Sampler
from trimix_edge.trios.manifest import TrioManifest


@dataclass(frozen=True)
class GenerationChunk:
    """What one token adds.

    Attributes:
        text: whole characters; empty while a character, or a possible stop string, is incomplete.
        token_id: the token that was added.
        logprob: nats under the fused distribution, if asked for.
        finish_reason: given by the last chunk only.
        weights: those in force, also where they were chosen for this prompt.
        shares: which model carried the token, if asked for: see :meth:`FusionRule.shares`.
    """

    text: str
    token_id: int
    logprob: float | None = None
    finish_reason: FinishReason | None = None
    weights: FusionWeights | None = None
    shares: Mapping[Role, float] | None = None


@dataclass(frozen=True)
class Generation:
    """A whole generation: ``text`` and everything that is needed to understand or repeat it.

    Attributes:
        weights: those in force, also where they were chosen for this prompt; None under a rule
            whose weights change from token to token.
        draft: what was guessed, and how much of it was right.
        n_kept: tokens of the prompt that did not have to be evaluated again.
        shares: of each token, which model carried it, if asked for.
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
    shares: list[Mapping[Role, float]] | None = None


class GenerationOptions(TypedDict, total=False):
    """Keyword arguments of ``stream``, ``generate`` and ``chat``; what is absent or None is the
    manifest's.

    Attributes:
        chat: send a text through the chat template, as one user turn.
        max_tokens: at most this many; as many as the context holds if nobody says.
        stop: the text ends before any of these strings.
        sampling: greedy if nobody says.
        weights, rule, plausibility: the roles that they need must be loaded.
        draft: how many tokens to guess and check at once; the text stays the same.
        logprobs: fill :attr:`GenerationChunk.logprob`.
        explain: fill :attr:`GenerationChunk.shares`.
        on_progress: called with the evaluated and all tokens of the prompt.
    """

    chat: bool | None
    max_tokens: int | None
    stop: Iterable[str] | None
    sampling: SamplingParams | None
    weights: Weights | None
    rule: RuleChoice | None
    plausibility: Plausibility | None
    draft: Draft | None
    logprobs: bool
    explain: bool
    on_progress: PromptProgress | None


class Run:
    """One generation of a loaded trio.

    Args:
        manifest: the settings that ``options`` leave open.
        prompt: its token ids.
        experience: what was learned about drafting so with these roles; asked for once, and only
            if something is drafted.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        trio: Trio,
        manifest: TrioManifest,
        rule: FusionRule,
        prompt: list[int],
        options: GenerationOptions,
        experience: Callable[[Draft, Collection[Role]], Experience],
    ) -> None:
        stop = options.get("stop")
        max_tokens = options.get("max_tokens")
        if max_tokens is not None and max_tokens < 0:
            raise UsageError(f"max-tokens is {max_tokens}, it can't be negative")
        self._trio = trio
        self._options = options
        self._max_tokens = manifest.max_tokens if max_tokens is None else max_tokens
        self._sampling = options.get("sampling") or manifest.sampling
        self._text = TextStream(manifest.stop if stop is None else stop)
        self._rule = rule
        self._sequence = TokenSequence(prompt)
        self._draft = options.get("draft") or manifest.draft
        if not isinstance(self._draft, Draft):
            raise UsageError(f"draft is {self._draft!r}: give a Draft, as in Draft(4)")
        self._experience = experience
        self._seed = 0
        self._shares: list[Mapping[Role, float]] = []

    def stream(self) -> Iterator[GenerationChunk]:
        trio, text, sequence = self._trio, self._text, self._sequence
        with Sampler(trio.vocab, trio.n_vocab, self._sampling) as sampler:
            self._seed = sampler.seed
            engine = Engine(
                trio,
                self._rule,
                sampler,
                trio.vocab.is_end,
                lookahead=self._speculation(sampler),
                logprobs=self._options.get("logprobs", False),
                explain=self._options.get("explain", False),
            )
            progress = self._options.get("on_progress")
            n_begun = trio.n_begun + 1  # the engine begins a sequence with its first token
            for token in engine.generate(sequence, self._max_tokens, progress):
                shown = text.push(trio.vocab.token_bytes(token.id))
                if text.stopped:
                    sequence.finish_reason = "stop"
                elif sequence.finish_reason is not None:
                    shown += text.finish()
                if token.shares is not None:
                    self._shares.append(token.shares)
                yield GenerationChunk(
                    shown,
                    token.id,
                    token.logprob,
                    sequence.finish_reason,
                    self._rule.weights,
                    token.shares,
                )
                if text.stopped:
                    break
                if sequence.finish_reason is None and trio.n_begun != n_begun:
                    raise UsageError(
                        "the trio was used for something else before this stream ended: its "
                        "models have forgotten the text"
                    )

    def _speculation(self, sampler: Sampler) -> Speculation | None:
        trio, n_draft = self._trio, self._draft.n_tokens
        if n_draft == 0 or self._max_tokens in (0, 1):
            return None
        if n_draft is not None and n_draft >= trio.n_batch:
            raise UsageError(
                f"draft is {n_draft}, but a batch of {trio.n_batch} tokens has no room for it: "
                f"lower --draft or raise --batch"
            )
        return Speculation(
            trio,
            sampler,
            trio.vocab.is_end,
            trio.n_vocab,
            self._draft,
            self._experience(self._draft, self._rule.needs),
        )

    def result(self, text: str) -> Generation:
        sequence = self._sequence
        return Generation(
            text=text,
            token_ids=sequence.generated,
            prompt_token_ids=sequence.prompt,
            finish_reason=sequence.finish_reason,
            weights=self._rule.weights,
            seed=self._seed,
            timings=sequence.timings,
            draft=sequence.draft,
            n_kept=sequence.n_kept,
            shares=self._shares if self._options.get("explain") else None,
        )
