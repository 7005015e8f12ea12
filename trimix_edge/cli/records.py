"""What ``generate --json`` prints: a generation, or one of its tokens, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from trimix_edge.cli import options as opt

if TYPE_CHECKING:
    from trimix_edge.config import Role
    from trimix_edge.decoding.run import Generation, GenerationChunk


class Tokens(Protocol):
    """What knows the bytes of tokens, as a loaded trio does."""

    def token_bytes(self, token: int) -> bytes: ...


def as_record(result: Generation, *, vocab: Tokens, load_seconds: float) -> dict[str, Any]:
    """A generation. ``tokens`` are the texts of single tokens: where one is a part of a character,
    U+FFFD stands for it; the bytes are in ``--stream``."""
    timings = result.timings
    more: dict[str, Any] = {}
    if result.shares is not None:
        more["shares"] = [shares_json(shares) for shares in result.shares]
    if result.logprobs is not None:
        more["logprobs"] = result.logprobs
    if result.top is not None:
        more["top_logprobs"] = [_alternatives(top, vocab) for top in result.top]
    return {
        **more,
        "text": result.text,
        "token_ids": result.token_ids,
        "tokens": [_text(token, vocab) for token in result.token_ids],
        "prompt_token_ids": result.prompt_token_ids,
        "finish_reason": result.finish_reason,
        "weights": opt.weights_json(result.weights),
        "chosen_by": result.chosen_by,
        "seed": result.seed,
        "n_kept": result.n_kept,
        "batched": result.batched,
        "repetition": None if result.repetition is None else result.repetition._asdict(),
        "draft": asdict(result.draft),
        "timings": {
            "load_ms": _ms(load_seconds),
            "prompt_ms": _ms(timings.prompt),
            "generation_ms": _ms(timings.generation),
            "fusion_ms": _ms(timings.fusion),
            "sampling_ms": _ms(timings.sampling),
            "drafting_ms": _ms(timings.drafting),
            "models_ms": {str(role): _ms(s) for role, s in timings.models.items()},
        },
    }


def token_record(chunk: GenerationChunk, vocab: Tokens) -> dict[str, Any]:
    """A token: the text that became certain with it, its bytes, and what was asked for."""
    more: dict[str, Any] = {}
    if chunk.shares is not None:
        more["shares"] = shares_json(chunk.shares)
    if chunk.models is not None:
        more["models"] = {
            str(role): [{**_named(token, vocab), "probability": p} for token, p in own]
            for role, own in chunk.models.items()
        }
    if chunk.logprob is not None:
        more["logprob"] = chunk.logprob
    if chunk.top:
        more["top_logprobs"] = _alternatives(chunk.top, vocab)
    return {
        "text": chunk.text,
        "token_id": chunk.token_id,
        "bytes": list(chunk.bytes),
        **more,
        "drafted": chunk.drafted,
        "finish_reason": chunk.finish_reason,
    }


def shares_json(shares: Mapping[Role, float]) -> dict[str, float]:
    """Each role's share in a token."""
    return {str(role): round(share, 4) for role, share in shares.items()}


def _alternatives(top: Iterable[tuple[int, float]], vocab: Tokens) -> list[dict[str, Any]]:
    return [{**_named(token, vocab), "logprob": logprob} for token, logprob in top]


def _named(token: int, vocab: Tokens) -> dict[str, Any]:
    return {"token_id": token, "token": _text(token, vocab)}


def _text(token: int, vocab: Tokens) -> str:
    return vocab.token_bytes(token).decode("utf-8", "replace")


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
