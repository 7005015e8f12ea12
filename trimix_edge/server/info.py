"""The routes that don't generate: health, models, properties, tokens, templates, metrics."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trimix_edge import __version__
from trimix_edge.config import FusionWeights, Role
from trimix_edge.server.answers import weights_json
from trimix_edge.server.errors import ApiError, Json
from trimix_edge.server.options import messages_of
from trimix_edge.server.protocol import Engine
from trimix_edge.server.schemas import DetokenizeRequest, TemplateRequest, TokenizeRequest, parse
from trimix_edge.server.state import State


def _state(request: Request) -> State:
    state: State = request.app.state.server
    return state


async def health(request: Request) -> Response:
    """``GET /health``: 503 until the models are loaded, then 200."""
    _ = _state(request).thread.engine
    return Json({"status": "ok"})


def _model(state: State, engine: Engine) -> dict[str, Any]:
    return {
        "id": engine.manifest.name,
        "object": "model",
        "created": state.created,
        "owned_by": "trimix-edge",
        "meta": {"n_ctx": engine.n_ctx, "roles": [str(role) for role in engine.roles]},
    }


async def models(request: Request) -> Response:
    """``GET /v1/models``: the one trio."""
    state = _state(request)
    return Json({"object": "list", "data": [_model(state, state.thread.engine)]})


async def model(request: Request) -> Response:
    """``GET /v1/models/NAME``."""
    state = _state(request)
    engine = state.thread.engine
    if request.path_params["name"] != engine.manifest.name:
        raise ApiError(
            404,
            f"the only model is {engine.manifest.name!r}",
            code="model_not_found",
            param="model",
        )
    return Json(_model(state, engine))


async def props(request: Request) -> Response:
    """``GET /props``: llama.cpp's properties, and those of the trio."""
    state = _state(request)
    engine = state.thread.engine
    manifest = engine.manifest
    sampling = asdict(manifest.sampling)
    sampling.pop("grammar")
    weights = manifest.weights
    return Json(
        {
            "default_generation_settings": {
                "n_ctx": engine.n_ctx,
                "params": {**sampling, "max_tokens": manifest.max_tokens, "stop": manifest.stop},
            },
            "total_slots": engine.n_parallel,
            "modalities": {"vision": False, "audio": False},
            "build_info": f"trimix-edge {__version__}",
            "trio": {
                "name": manifest.name,
                "description": manifest.description,
                "roles": [str(role) for role in Role if role in engine.roles],
                "weights": weights_json(weights)
                if isinstance(weights, FusionWeights)
                else str(weights),
                "rule": str(engine.rule),
                "plausibility": str(manifest.plausibility) if manifest.plausibility else None,
                "chat": manifest.chat,
            },
        }
    )


async def tokenize(request: Request) -> Response:
    """``POST /tokenize``, as llama.cpp's server has it."""
    state = _state(request)
    asked = parse(TokenizeRequest, await state.read(request))
    vocab = state.thread.engine.trio.vocab
    ids = await state.thread.prepare(
        partial(
            vocab.tokenize,
            asked.content,
            add_special=asked.add_special,
            parse_special=asked.parse_special,
        )
    )
    if not asked.with_pieces:
        return Json({"tokens": ids})
    return Json({"tokens": [{"id": token, "piece": _piece(vocab, token)} for token in ids]})


def _piece(vocab: Any, token: int) -> str | list[int]:
    """The text of a token, or its bytes where it is a part of a character only."""
    data: bytes = vocab.token_bytes(token, special=True)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return list(data)


async def detokenize(request: Request) -> Response:
    """``POST /detokenize``, as llama.cpp's server has it: control tokens are spelled out."""
    state = _state(request)
    asked = parse(DetokenizeRequest, await state.read(request))
    vocab = state.thread.engine.trio.vocab
    for token in asked.tokens:
        if token >= vocab.size:
            raise ApiError(
                400, f"tokens: {token} is not in a vocabulary of {vocab.size}", param="tokens"
            )
    data = b"".join(vocab.token_bytes(token, special=True) for token in asked.tokens)
    return Json({"content": data.decode("utf-8", "replace")})


async def apply_template(request: Request) -> Response:
    """``POST /apply-template``: the prompt that a conversation becomes."""
    state = _state(request)
    asked = parse(TemplateRequest, await state.read(request))
    messages = messages_of(asked.messages, fold_system=state.folds_system)
    render = partial(
        state.thread.engine.render, messages, **_keywords(asked.chat_template_kwargs or {})
    )
    return Json({"prompt": await state.thread.prepare(render)})


def _keywords(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if not name.isidentifier() or name in ("messages", "self"):
            raise ApiError(
                400,
                "chat_template_kwargs: a name is not one that a template can use",
                param="chat_template_kwargs",
            )
    return given


async def metrics(request: Request) -> Response:
    """``GET /metrics``, for Prometheus."""
    own = _state(request).metrics
    return Response(own.text(), media_type=own.content_type)
