"""A request's fields to the options of a generation."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from trimix_edge import values
from trimix_edge.config import FusionWeights
from trimix_edge.errors import UsageError
from trimix_edge.llama.json_schema import grammar_of_schema
from trimix_edge.server.errors import ApiError
from trimix_edge.server.schemas import (
    MAX_CHOICES,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)

_SAME_NAME = (
    "stop", "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma",
    "xtc_probability", "xtc_threshold", "repeat_penalty", "repeat_last_n", "presence_penalty",
    "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "mirostat", "mirostat_tau", "mirostat_eta", "ignore_eos",
    "cache_prompt", "rule", "plausibility", "draft", "explain",
)  # fmt: skip
_MAX_STOPS = 1000
_SEEDS = 2**32 - 2 - MAX_CHOICES
"""A drawn seed leaves room for those of the other choices."""


def options_of(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """What ``submit`` takes beside the prompt; absent fields are left to the trio.

    Turning a schema into a grammar takes some time: call it outside the event loop.

    Raises:
        ApiError, UsageError, GrammarError: 400; fields contradict each other or make no sense.
    """
    options = {name: getattr(request, name) for name in _SAME_NAME}
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(request.stop, list) and len(request.stop) > _MAX_STOPS:
        raise ApiError(400, f"stop: up to {_MAX_STOPS} strings are fine", param="stop")
    if (limit := _max_tokens(request)) is not None:
        options["max_tokens"] = limit
    if request.seed is not None:
        options["seed"] = secrets.randbelow(_SEEDS) if request.seed == -1 else request.seed
    if request.weights is not None:
        options["weights"] = _weights(request)
    if request.logit_bias:
        options["logit_bias"] = _logit_bias(request.logit_bias)
    if (grammar := _grammar(request)) is not None:
        options["grammar"] = grammar
    if (count := _logprobs(request)) is not None:
        options["logprobs"] = count
    if isinstance(request, ChatRequest) and request.chat_template_kwargs:
        options["template_kwargs"] = request.chat_template_kwargs
    if isinstance(request, CompletionRequest):
        options["chat"] = False
    return options


def _max_tokens(request: ChatRequest | CompletionRequest) -> int | None:
    names = ["max_tokens", "n_predict"]
    if isinstance(request, ChatRequest):
        names.append("max_completion_tokens")
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    if len(set(given.values())) > 1:
        raise ApiError(400, f"{' and '.join(given)} differ: give one of them", param=min(given))
    if not given:
        return None
    name, value = next(iter(given.items()))
    limit = int(value)
    if limit == 0:
        raise ApiError(400, f"{name} is 0: ask for one token at least", param=name)
    return limit


def _weights(request: GenerationRequest) -> str | tuple[float, float]:
    assert request.weights is not None
    if request.rule is not None:
        values.rule(request.rule).refuse_weights()
    chosen = values.weights(request.weights)
    if isinstance(chosen, FusionWeights):
        return (chosen.large_ins, chosen.small_cpt)
    return str(chosen)


def _logit_bias(given: dict[str, float] | list[list[float]]) -> dict[int, float]:
    pairs = list(given.items()) if isinstance(given, dict) else [(str(k), v) for k, v in given]
    bias: dict[int, float] = {}
    for key, value in pairs:
        text = key.removesuffix(".0")
        if not text.isascii() or not text.isdigit() or len(text) > 10:
            raise ApiError(
                400, "logit_bias: a key must be a token's id, as in 42", param="logit_bias"
            )
        if not -100.0 <= value <= 100.0:
            raise ApiError(400, "logit_bias: a bias must be from -100 to 100", param="logit_bias")
        bias[int(text)] = value
    return bias


def _grammar(request: GenerationRequest) -> str | None:
    form = request.response_format
    wanted = form if form is not None and form.type != "text" else None
    given = [
        name
        for name, value in (
            ("grammar", request.grammar),
            ("json_schema", request.json_schema),
            ("response_format", wanted),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise ApiError(400, f"{' and '.join(given)}: give one of them", param=given[0])
    if request.json_schema is not None:
        return grammar_of_schema(request.json_schema)
    if wanted is None:
        return request.grammar
    schema = wanted.schema_
    if wanted.type == "json_schema":
        if wanted.json_schema is not None:
            schema = wanted.json_schema.schema_
        if schema is None:
            raise ApiError(
                400, "response_format.json_schema is missing", param="response_format.json_schema"
            )
    return grammar_of_schema(schema if schema is not None else {"type": "object"})


def _logprobs(request: ChatRequest | CompletionRequest) -> int | None:
    """How many alternatives a token's log-probability comes with; None for no log-probabilities."""
    if isinstance(request, CompletionRequest):
        if request.logprobs is not None and request.n_probs not in (None, request.logprobs):
            raise ApiError(400, "logprobs and n_probs differ: give one of them", param="logprobs")
        count = request.n_probs if request.logprobs is None else request.logprobs
        return 0 if count is None and request.explain else count
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs or request.explain else None


def messages_of(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """The conversation for a chat template, which knows no role ``developer``.

    Where a template has no place for a system message, the trio itself puts it before the first
    user message, and says so once.
    """
    return [
        {"role": "system" if m.role == "developer" else m.role, "content": m.text} for m in messages
    ]


def jobs_of(
    prompts: Sequence[Any], options: dict[str, Any], n: int, seed: int | None = None
) -> list[tuple[Any, dict[str, Any]]]:
    """A job for each choice: each prompt ``n`` times, with seeds that count up from the first.

    Args:
        seed: the server's own, for requests that name none.

    Raises:
        UsageError: the last of the seeds would be out of range.
    """
    jobs = []
    for prompt in prompts:
        for i in range(n):
            own = dict(options)
            first = own.get("seed", seed)
            if i and first is not None:
                own["seed"] = first + i
                if own["seed"] > 2**32 - 2:
                    raise UsageError(f"seed: {n} choices need as many seeds up to {2**32 - 2}")
            jobs.append((prompt, own))
    return jobs
