"""``/v1/chat/completions`` and ``/v1/completions``: from a request to its answer."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trimix_edge import __version__
from trimix_edge.errors import ContextOverflowError, PromptError
from trimix_edge.server.answers import Choice, Format
from trimix_edge.server.engine_thread import Group
from trimix_edge.server.errors import ApiError, Json, as_api_error
from trimix_edge.server.options import jobs_of, messages_of, options_of
from trimix_edge.server.protocol import Engine
from trimix_edge.server.schemas import ChatRequest, CompletionRequest, GenerationRequest, parse
from trimix_edge.server.sse import COMMENT, DONE, ClientGone, EventStream, event, while_connected
from trimix_edge.server.state import State

_log = logging.getLogger("trimix_edge.server")


async def chat(request: Request) -> Response | EventStream:
    """``POST /v1/chat/completions``."""
    state: State = request.app.state.server
    asked = parse(ChatRequest, await state.read(request))
    messages = messages_of(asked.messages)
    state.log_prompt(messages)
    return await _answer(request, state, asked, [messages])


async def complete(request: Request) -> Response | EventStream:
    """``POST /v1/completions``."""
    state: State = request.app.state.server
    asked = parse(CompletionRequest, await state.read(request))
    state.log_prompt(asked.prompt)
    return await _answer(request, state, asked, asked.prompts)


async def _answer(
    request: Request, state: State, asked: ChatRequest | CompletionRequest, prompts: list[Any]
) -> Response | EventStream:
    begin = time.perf_counter()
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")
    engine = state.thread.engine
    options = await state.thread.prepare(partial(options_of, asked))
    for token in options.get("logit_bias", ()):
        if token >= engine.trio.vocab.size:
            raise ApiError(
                400,
                f"logit_bias: {token} is not in a vocabulary of {engine.trio.vocab.size}",
                param="logit_bias",
            )
    try:
        seed = engine.manifest.sampling.seed
        group = await state.thread.submit(jobs_of(prompts, options, asked.n or 1, seed))
    except (ContextOverflowError, PromptError) as error:
        told = as_api_error(error)
        told.param = asked.CONTENT
        raise told from None
    explain = bool(asked.explain)
    choices = [
        Choice(i, run, engine.token_bytes, explain=explain) for i, run in enumerate(group.runs)
    ]
    answer = Format(
        chat=isinstance(asked, ChatRequest),
        model=engine.manifest.name,
        version=__version__,
        settings=_settings(engine, asked),
        logprobs="logprobs" in options,
    )
    if asked.stream:
        with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = _events(state, group, choices, answer, begin, with_usage)
        return EventStream(events, partial(_close, state, group, choices), state.limits.stall)
    try:
        await while_connected(request.receive, _collect(state, group, choices, begin))
    except ClientGone:
        return Response(status_code=499)
    finally:
        _close(state, group, choices)
    return Json(answer.whole(choices))


def _settings(engine: Engine, asked: GenerationRequest) -> dict[str, Any]:
    """What is in force of the fusion settings, beside the weights themselves."""
    own = str(engine.rule) if asked.weights is None else "trimix"
    mask = engine.manifest.plausibility
    return {
        "rule": asked.rule or own,
        "plausibility": asked.plausibility or (str(mask) if mask else None),
    }


async def _collect(state: State, group: Group, choices: list[Choice], begin: float) -> None:
    first = True
    async for found in group.chunks():
        if found is not None:
            if first:
                state.metrics.first_token.observe(time.perf_counter() - begin)
                first = False
            choices[found[0]].add(found[1])


async def _events(
    state: State,
    group: Group,
    choices: list[Choice],
    answer: Format,
    begin: float,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    for choice in choices:
        if (opening := answer.first(choice.index)) is not None:
            yield event(opening)
    first = True
    try:
        async for found in group.chunks(state.limits.heartbeat):
            if found is None:
                yield COMMENT
                continue
            if first:
                state.metrics.first_token.observe(time.perf_counter() - begin)
                first = False
            choice, chunk = choices[found[0]], found[1]
            offset = len(choice.text)
            items = choice.add(chunk)
            if chunk.text or items or choice.finish_reason is not None:
                yield event(answer.piece(choice, chunk.text, items, offset))
    except Exception as error:
        told = as_api_error(error)
        if told.code == "internal_error":
            _log.error("a generation has failed", exc_info=error)
        yield event(told.body)
        return
    if with_usage:
        yield event(answer.usage_piece(choices))
    yield DONE


def _close(state: State, group: Group, choices: list[Choice]) -> None:
    if any(choice.finish_reason is None for choice in choices):
        state.metrics.cancelled.inc()
    state.thread.release(group)
    metrics = state.metrics
    for choice in choices:
        metrics.generated_tokens.inc(choice.n_tokens)
        if choice.n_tokens:
            metrics.cached_tokens.inc(choice.run.n_kept)
            metrics.prompt_tokens.inc(len(choice.run.prompt_token_ids) - choice.run.n_kept)
