"""The embedded trio behind the interface for many sequences, one sequence after the other."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from trimix_edge import TriMix
from trimix_edge.config import (
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    RuleChoice,
    SamplingParams,
    WeightChoice,
)
from trimix_edge.decoding.chat import render_chat
from trimix_edge.errors import ContextOverflowError, TriMixError, UsageError
from trimix_edge.llama import Sampler


class ShimRun:
    def __init__(self, ids: list[int], options: dict[str, Any]) -> None:
        self.prompt_token_ids = ids
        self.options = options
        self.n_kept = 0
        self.finished = self.cancelled = False
        self.error: BaseException | None = None
        self.run: Any = None
        self.stream: Iterator[Any] | None = None

    def cancel(self) -> None:
        self.cancelled = True

    def result(self) -> Any:
        return self.run.result("")


class Shim:
    def __init__(self, n_parallel: int = 4) -> None:
        self.n_parallel = n_parallel
        self._trimix = TriMix.load("dzongkha", roles=tuple(Role))
        self.trio, self.manifest = self._trimix.trio, self._trimix.manifest
        self.rule = self._trimix.rule
        self.roles = self.trio.roles
        self.n_ctx = self.trio.n_ctx
        self._lock = threading.Lock()
        self._runs: list[ShimRun] = []

    @property
    def is_idle(self) -> bool:
        with self._lock:
            self._runs = [r for r in self._runs if not (r.cancelled or r.finished)]
            return not self._runs

    def token_bytes(self, token: int) -> bytes:
        return self.trio.vocab.token_bytes(token)

    def render(self, messages: Any, **template_kwargs: Any) -> str:
        return render_chat(self.trio.lead.chat_template, messages)

    def submit(self, prompt: Any, **options: Any) -> ShimRun:
        options.pop("cache_prompt", None)
        names = {f.name for f in dataclasses.fields(SamplingParams)}
        given = {k: options.pop(k) for k in list(options) if k in names}
        sampling = dataclasses.replace(self.manifest.sampling, **given)
        own: dict[str, Any] = {"sampling": sampling, "draft": Draft(0)}
        if isinstance(options.get("stop"), str):
            options["stop"] = [options["stop"]]
        for name in ("stop", "max_tokens", "explain"):
            if name in options:
                own[name] = options.pop(name)
        own["logprobs"] = options.pop("logprobs", None) is not None
        if (weights := options.pop("weights", None)) is not None:
            pair = isinstance(weights, tuple)
            own["weights"] = FusionWeights(*weights) if pair else WeightChoice(weights)
        if (rule := options.pop("rule", None)) is not None:
            own["rule"] = RuleChoice.parse(rule)
        if (mask := options.pop("plausibility", None)) is not None:
            own["plausibility"] = Plausibility.parse(mask)
        chat = options.pop("chat", None)
        if options:
            raise UsageError(f"{min(options)} is not supported")
        is_ids = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], int)
        ids = list(prompt) if is_ids else self._trimix.tokenize(prompt, chat=chat)
        if len(ids) >= self.n_ctx:
            raise ContextOverflowError(len(ids), self.n_ctx)
        Sampler(self.trio.vocab, self.trio.n_vocab, sampling).close()
        run = ShimRun(ids, own)
        with self._lock:
            self._runs.append(run)
        return run

    def step(self) -> list[tuple[ShimRun, Any]]:
        if self.is_idle:
            return []
        run = self._runs[0]
        if run.stream is None:
            run.run = self._trimix._run("x", run.options)  # type: ignore[arg-type]
            run.run._sequence.prompt = run.prompt_token_ids
            run.stream = run.run.stream()
        try:
            chunk = next(run.stream)
        except TriMixError as error:
            run.error, run.finished = error, True
            return [(run, SimpleNamespace(finish_reason="error"))]
        run.finished = chunk.finish_reason is not None
        run.n_kept = run.run._sequence.n_kept
        top = [(chunk.token_id, chunk.logprob)] if chunk.logprob is not None else None
        fields = {f.name: getattr(chunk, f.name) for f in dataclasses.fields(chunk)}
        more = {"bytes": self.token_bytes(chunk.token_id), "drafted": False}
        models = {role: [(chunk.token_id, 0.5)] for role in Role}
        return [(run, SimpleNamespace(**fields, **more, top=top, models=models))]

    def close(self) -> None:
        self._trimix.close()
