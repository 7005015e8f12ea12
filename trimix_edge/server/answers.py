"""Generated chunks to the bodies of OpenAI's answers, whole and in pieces."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from trimix_edge.config import FusionWeights, Role
from trimix_edge.server.protocol import Chunk, Run

_LEAST_LOGPROB = -9999.0
"""What OpenAI writes for minus infinity, which JSON lacks."""

_REASONS = {
    "end": "stop",
    "stop": "stop",
    "length": "length",
    "context": "length",
    "cancelled": "stop",
}

TokenBytes = Callable[[int], bytes]


class Choice:
    """One choice of an answer, as far as it has come."""

    def __init__(self, index: int, run: Run, token_bytes: TokenBytes, *, explain: bool) -> None:
        self.index = index
        self.run = run
        self.text = ""
        self.n_tokens = 0
        self.items: list[dict[str, Any]] = []
        self.offsets: list[int] = []
        self.finish_reason: str | None = None
        self.weights: FusionWeights | None = None
        self._token_bytes = token_bytes
        self._explain = explain

    def add(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Take a chunk in; returns its tokens' items for ``logprobs``, none or one."""
        self.n_tokens += chunk.token_id >= 0  # some generations end without a token
        self.weights = chunk.weights
        items = []
        # The token that ends a text is no part of it.
        if chunk.logprob is not None and chunk.token_id >= 0 and chunk.finish_reason != "end":
            items.append(self._item(chunk))
            self.offsets.append(len(self.text))
        self.items += items
        self.text += chunk.text
        if chunk.finish_reason is not None:
            self.finish_reason = _REASONS[chunk.finish_reason]
        return items

    def _item(self, chunk: Chunk) -> dict[str, Any]:
        assert chunk.logprob is not None
        item = {
            **self._token(chunk.token_id, chunk.bytes),
            "logprob": _finite(chunk.logprob),
            "top_logprobs": [
                {**self._token(token), "logprob": _finite(logprob)}
                for token, logprob in chunk.top or ()
            ],
        }
        if self._explain:
            item["drafted"] = bool(chunk.drafted)
            item["shares"] = {str(r): round(s, 4) for r, s in (chunk.shares or {}).items()}
            item["models"] = {
                str(role): [{**self._token(t), "prob": round(p, 6)} for t, p in choices]
                for role, choices in (chunk.models or {}).items()
            }
        return item

    def _token(self, token: int, piece: bytes | None = None) -> dict[str, Any]:
        piece = self._token_bytes(token) if piece is None else piece
        return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece)}


def _finite(logprob: float) -> float:
    return round(max(logprob, _LEAST_LOGPROB), 6)


def weights_json(weights: FusionWeights | None) -> dict[str, float] | None:
    """The three weights by role; None under a rule whose weights change from token to token."""
    if weights is None:
        return None
    return {str(role): round(weights.of(role), 6) for role in Role}


def usage(choices: Sequence[Choice]) -> dict[str, Any]:
    """OpenAI's counts; a prompt of several choices counts once."""
    prompts = {tuple(choice.run.prompt_token_ids): choice.run for choice in choices}
    n_prompt = sum(map(len, prompts))
    n_generated = sum(choice.n_tokens for choice in choices)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": sum(run.n_kept for run in prompts.values())},
    }


def timings(choice: Choice) -> dict[str, Any]:
    """llama.cpp's ``timings``, in milliseconds and tokens a second."""
    result = choice.run.result()
    n_cached = choice.run.n_kept
    n_prompt = max(len(choice.run.prompt_token_ids) - n_cached, 1)
    prompt_s, generation_s = result.timings.prompt, result.timings.generation
    told: dict[str, Any] = {
        "cache_n": n_cached,
        "prompt_n": n_prompt,
        "prompt_ms": round(prompt_s * 1e3, 3),
        "prompt_per_token_ms": round(prompt_s * 1e3 / n_prompt, 3),
        "prompt_per_second": round(n_prompt / max(prompt_s, 1e-9), 3),
        "predicted_n": choice.n_tokens,
        "predicted_ms": round(generation_s * 1e3, 3),
        "predicted_per_token_ms": round(generation_s * 1e3 / max(choice.n_tokens, 1), 3),
        "predicted_per_second": round(choice.n_tokens / max(generation_s, 1e-9), 3),
    }
    if result.draft.drafted:
        told["draft_n"] = result.draft.drafted
        told["draft_n_accepted"] = result.draft.accepted
    return told


class Format:
    """The bodies of one answer.

    Args:
        chat: chat completions, or text completions.
        model: the trio's name.
        settings: what the answer repeats of the request: rule, plausibility.
        logprobs: whether log-probabilities were asked for.
    """

    def __init__(
        self, *, chat: bool, model: str, version: str, settings: dict[str, Any], logprobs: bool
    ) -> None:
        self.chat = chat
        self.id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(16)
        self._settings = settings
        self._logprobs = logprobs
        self._head = {
            "id": self.id,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"trimix-edge-{version}",
        }

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}

    @property
    def _piece_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def first(self, index: int) -> dict[str, Any] | None:
        """What begins a stream: an assistant's empty turn."""
        if not self.chat:
            return None
        delta = {"role": "assistant", "content": ""}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._body(self._piece_kind, [choice])

    def piece(
        self, choice: Choice, text: str, items: list[dict[str, Any]], offset: int
    ) -> dict[str, Any]:
        content: dict[str, Any] = (
            {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        )
        body = self._body(
            self._piece_kind,
            [
                {
                    "index": choice.index,
                    **content,
                    "logprobs": self._told(items, [offset] * len(items)) if items else None,
                    "finish_reason": choice.finish_reason,
                }
            ],
        )
        if choice.finish_reason is not None:
            body |= {"timings": timings(choice), **self._fusion(choice)}
        return body

    def usage_piece(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {**self._body(self._piece_kind, []), "usage": usage(choices)}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        told = []
        for choice in choices:
            content: dict[str, Any] = (
                {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
                if self.chat
                else {"text": choice.text}
            )
            logprobs = self._told(choice.items, choice.offsets) if self._logprobs else None
            told.append(
                {
                    "index": choice.index,
                    **content,
                    "logprobs": logprobs,
                    "finish_reason": choice.finish_reason,
                }
            )
        first = choices[0]
        return {
            **self._body(kind, told),
            "usage": usage(choices),
            "timings": timings(first),
            **self._fusion(first),
        }

    def _fusion(self, choice: Choice) -> dict[str, Any]:
        result = choice.run.result()
        return {
            "weights": weights_json(choice.weights),
            "chosen_by": result.chosen_by,
            **self._settings,
            "draft": {"drafted": result.draft.drafted, "accepted": result.draft.accepted},
            "seed": result.seed,
        }

    def _told(self, items: list[dict[str, Any]], offsets: list[int]) -> dict[str, Any]:
        if self.chat:
            return {"content": items, "refusal": None}
        return {  # OpenAI's older form, and beside it the newer one, which has more in it
            "tokens": [item["token"] for item in items],
            "token_logprobs": [item["logprob"] for item in items],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in item["top_logprobs"]} for item in items
            ],
            "text_offset": offsets,
            "content": items,
        }
