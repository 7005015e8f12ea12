"""What one generation can be told, as keywords: validated at the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

from trimix_edge import values
from trimix_edge.config import (
    Draft,
    Plausibility,
    RuleChoice,
    SamplingParams,
)
from trimix_edge.decoding.sequence import PromptProgress
from trimix_edge.errors import UsageError
from trimix_edge.weights import Weights

MAX_TOP = 20
"""As in OpenAI's API."""

_SAMPLING = tuple(f.name for f in fields(SamplingParams))


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Keyword arguments of ``stream``, ``generate`` and ``chat``; what is None is the manifest's.

    Attributes:
        chat: send a text through the chat template, as one user turn.
        max_tokens: at most this many; -1 for as many as the context holds. Where the manifest says
            nothing either, 1,024.
        stop: the text ends before any of these strings.
        sampling: several sampler settings at once, laid over the manifest's: those that are named.
            Single ones, by llama.cpp's names, win over it. Files without a manifest have
            llama.cpp's defaults, a temperature of 0.8 among them.
        seed: of the draws; None draws one.
        grammar: GBNF.
        logit_bias: what is added to the fused logits of single tokens.
        weights: a pair, or how one is chosen for the prompt: ``"auto"``, ``"auto:Tibt"``,
            ``"auto:all"`` or ``"entropy"``; not beside a rule that sets them itself.
        rule: ``"trimix"``, ``"proxy"``, ``"average"``, ``"saf"`` or ``"single:ROLE"``. The roles
            that it needs must be loaded.
        plausibility: as in ``"small_cpt:0.1"``.
        draft: ``"auto"``, ``"off"`` or how many tokens are drafted at once; none are where the trio
            was loaded as repeatable.
        logprobs: compute log-probabilities, and those of so many alternatives.
        explain: compute each model's share in each token.
        ignore_eos: go on after the end of generation.
        cache_prompt: begin with what the models still hold of the prompt.
        parse_special: read the spelling of control tokens in a raw prompt as these tokens.
        template_kwargs: variables for the chat template.
        on_progress: called with the evaluated and all tokens of the prompt.

    Raises:
        UsageError: a value can't be understood, or is out of range.
    """

    chat: bool | None = None
    max_tokens: int | None = None
    stop: str | Iterable[str] | None = None
    sampling: SamplingParams | Mapping[str, object] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    grammar: str | None = None
    seed: int | None = None
    logit_bias: Mapping[int, float] | None = None
    weights: Weights | str | Iterable[float] | None = None
    rule: RuleChoice | str | None = None
    plausibility: Plausibility | str | tuple[str, float] | None = None
    draft: Draft | str | int | None = None
    logprobs: bool | int = False
    explain: bool = False
    ignore_eos: bool = False
    cache_prompt: bool = True
    parse_special: bool = True
    template_kwargs: Mapping[str, object] | None = None
    on_progress: PromptProgress | None = None

    def __post_init__(self) -> None:
        coerce: dict[str, Callable[[object], object]] = {
            "stop": values.stop,  # type: ignore[dict-item]
            "weights": values.weights,  # type: ignore[dict-item]
            "rule": values.rule,  # type: ignore[dict-item]
            "plausibility": values.plausibility,  # type: ignore[dict-item]
            "draft": values.draft,  # type: ignore[dict-item]
        }
        for name, become in coerce.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, become(value))
        if isinstance(self.rule, RuleChoice) and self.weights is not None:
            self.rule.refuse_weights()
        _check_count("max_tokens", self.max_tokens, -1, 2**31 - 1)
        _check_count("logprobs", self.logprobs, 0, MAX_TOP)
        self.sampling_over(SamplingParams())

    def sampling_over(self, base: SamplingParams) -> SamplingParams:
        """The sampler settings, laid over the manifest's."""
        named = {name: getattr(self, name) for name in _SAMPLING}
        return values.overlay(base, self.sampling, **named)

    @property
    def top(self) -> int:
        """Alternatives whose log-probabilities are wanted; -1 for no log-probabilities at all."""
        if isinstance(self.logprobs, bool):
            return 0 if self.logprobs else -1
        return self.logprobs


def _check_count(name: str, value: object, low: int, high: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}, it must be a whole number from {low} to {high}")
