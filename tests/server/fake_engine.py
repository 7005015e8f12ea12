"""A scripted engine: byte-level tokens, a delay for each step, everything else as the real one's
interface has it. It shows what the server does, not what models say."""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimix_edge import values
from trimix_edge.config import FusionWeights, Role, RuleChoice, SamplingParams
from trimix_edge.decoding.sequence import DraftCounts, Timings
from trimix_edge.errors import (
    ContextOverflowError,
    DecodeError,
    GrammarError,
    PromptError,
    TemplateError,
    UsageError,
)
from trimix_edge.trios.manifest import TrioManifest

END = 256
_SAMPLING = {f.name for f in dataclasses.fields(SamplingParams)}


@dataclass
class FakeChunk:
    text: str
    token_id: int
    bytes: bytes
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    finish_reason: str | None = None
    weights: FusionWeights | None = None
    shares: dict[Role, float] | None = None
    models: dict[Role, list[tuple[int, float]]] | None = None
    drafted: bool = False


@dataclass
class FakeResult:
    timings: Timings = field(default_factory=lambda: Timings(prompt=0.01, generation=0.1))
    draft: DraftCounts = field(default_factory=DraftCounts)
    seed: int = 0
    chosen_by: str | None = None


class FakeRun:
    def __init__(self, prompt: list[int], says: bytes, options: dict[str, Any]) -> None:
        self.prompt_token_ids = prompt
        self.says = says
        self.options = options
        self.n_kept = 0
        self.place = 0
        self.prompt_steps = len(prompt) // 256
        self.finished = False
        self.cancelled = False
        self.error: BaseException | None = None
        self.held = b""

    def cancel(self) -> None:
        self.cancelled = True

    def result(self) -> FakeResult:
        return FakeResult(seed=self.options.get("seed") or 0)


class FakeVocab:
    size = 257

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        try:
            return list(text.encode())
        except UnicodeEncodeError:
            raise PromptError("the text is not valid Unicode") from None

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        return b"" if token == END else bytes([token])


class FakeTrio:
    vocab = FakeVocab()


class FakeEngine:
    """Says the last user turn back, in capitals, unless ``says`` is given."""

    def __init__(
        self,
        *,
        n_parallel: int = 4,
        n_ctx: int = 2048,
        delay: float = 0.0,
        says: str | None = None,
        fails: bool = False,
        crashes: bool = False,
    ) -> None:
        self.n_parallel = n_parallel
        self.n_ctx = n_ctx
        self.roles = tuple(Role)
        self.manifest = TrioManifest(name="fake", models={role: Path("x") for role in Role})
        self.rule = RuleChoice()
        self.trio = FakeTrio()
        self.delay = delay
        self.says = says
        self.fails = fails
        self.crashes = crashes
        self.n_steps = 0
        self.submitted: list[FakeRun] = []
        self.closed = False
        self._lock = threading.Lock()
        self._runs: list[FakeRun] = []

    @property
    def is_idle(self) -> bool:
        with self._lock:
            return not any(not run.cancelled for run in self._runs)

    def token_bytes(self, token: int) -> bytes:
        return self.trio.vocab.token_bytes(token)

    def render(self, messages: list[dict[str, str]], **template_kwargs: Any) -> str:
        if template_kwargs.get("broken"):
            raise TemplateError("the chat template refuses the conversation: it is broken")
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)

    def submit(self, prompt: Any, **options: Any) -> FakeRun:
        self._check(options)
        if isinstance(prompt, str):
            ids = self.trio.vocab.tokenize(prompt)
        elif prompt and isinstance(prompt[0], int):
            ids = list(prompt)
            if any(token > END for token in ids):
                raise PromptError("a token is not in the vocabulary")
        elif not prompt:
            ids = []
        else:
            text = self.render(prompt, **(options.get("template_kwargs") or {}))
            ids = self.trio.vocab.tokenize(text)
        if not ids:
            raise PromptError("the prompt is empty: there is nothing to continue")
        if len(ids) >= self.n_ctx:
            raise ContextOverflowError(len(ids), self.n_ctx)
        said = self.says
        if said is None:
            said = prompt if isinstance(prompt, str) else bytes(ids).decode("utf-8", "replace")
            said = said.rpartition(">")[2].upper()
        run = FakeRun(ids, said.encode(), options)
        with self._lock:
            self._runs.append(run)
        self.submitted.append(run)
        return run

    def _check(self, options: dict[str, Any]) -> None:
        SamplingParams(**{k: v for k, v in options.items() if k in _SAMPLING})
        if isinstance(options.get("rule"), str):
            values.rule(options["rule"])
        if isinstance(options.get("plausibility"), str):
            values.plausibility(options["plausibility"])
        if options.get("grammar") is not None and "root" not in options["grammar"]:
            raise GrammarError("grammar: it has no root")
        if "" in ([options["stop"]] if isinstance(options.get("stop"), str) else
                  options.get("stop") or []):  # fmt: skip
            raise UsageError("a stop string is empty: it would stop at once")

    def step(self) -> list[tuple[FakeRun, FakeChunk]]:
        if self.crashes:
            raise RuntimeError("a fault nobody thought of")
        time.sleep(self.delay)
        self.n_steps += 1
        with self._lock:
            self._runs = [run for run in self._runs if not (run.cancelled or run.finished)]
            running = self._runs[: self.n_parallel]
        events = []
        for run in running:
            if run.prompt_steps:
                run.prompt_steps -= 1
            else:
                events.append((run, self._next(run)))
        return events

    def _next(self, run: FakeRun) -> FakeChunk:
        if self.fails:
            run.finished, run.error = True, DecodeError("large_ins", 3)
            return FakeChunk("", 0, b"", finish_reason="error")
        options = run.options
        ends = run.place >= len(run.says) and not options.get("ignore_eos")
        token = END if ends else run.says[run.place % max(len(run.says), 1)]
        run.place += 1
        piece = self.token_bytes(token)
        run.held += piece
        try:
            text, run.held = run.held.decode(), b""
        except UnicodeDecodeError:
            text = ""
        reason = "end" if ends else None
        limit = options.get("max_tokens")
        if reason is None and limit is not None and run.place >= limit:
            reason = "length"
        if reason is None and len(run.prompt_token_ids) + run.place >= self.n_ctx:
            reason = "context"
        run.finished = reason is not None
        weights = options.get("weights")
        pair = FusionWeights(*weights) if isinstance(weights, tuple) else FusionWeights(0.9, 0.4)
        wants = options.get("logprobs")
        chunk = FakeChunk(text, token, piece, finish_reason=reason, weights=pair)
        if wants is not None and wants is not False:
            chunk.logprob = -0.5
            chunk.top = [(token, -0.5), (65, -2.0), (66, float("-inf"))][:wants]
        if options.get("explain"):
            lead = list(Role)[run.place // 6 % 3]
            chunk.shares = {role: 0.7 if role is lead else 0.15 for role in Role}
            chunk.models = {role: [(token, 0.6), (65, 0.3)] for role in Role}
        return chunk

    def close(self) -> None:
        self.closed = True
