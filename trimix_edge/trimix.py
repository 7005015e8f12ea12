"""The facade: a trio, its fusion rule and its samplers behind a few verbs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import cast

from trimix_edge import values
from trimix_edge.config import ContextParams, Role, RuleChoice
from trimix_edge.decoding import prompt_cache
from trimix_edge.decoding.chat import Message
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.keywords import takes
from trimix_edge.decoding.loop import EngineLoop
from trimix_edge.decoding.options import GenerationOptions
from trimix_edge.decoding.prepare import Preparation, Prompt
from trimix_edge.decoding.run import Generation, GenerationChunk, Run
from trimix_edge.decoding.scoring import Score, ScoreProgress, score_tokens
from trimix_edge.decoding.stream import Stream
from trimix_edge.decoding.trio import LoadProgress, Trio
from trimix_edge.errors import UsageError
from trimix_edge.fusion.by_prompt import DynamicFusion
from trimix_edge.fusion.choose import rule_roles
from trimix_edge.fusion.rule import FusionRule
from trimix_edge.llama import Vocab, backend_info
from trimix_edge.trios.manifest import TrioManifest
from trimix_edge.weights import Weights

WeightsLike = Weights | str | Iterable[float]


class TriMix:
    """A loaded trio. Use it as a context manager.

    It may be used from several threads. Up to ``n_parallel`` generations run at once, in the same
    batches; others wait for their turn.

    >>> with TriMix.load("dzongkha") as trimix:
    ...     for chunk in trimix.stream("Save the file."):
    ...         print(chunk.text, end="", flush=True)
    """

    def __init__(self, trio: Trio, manifest: TrioManifest, rule: RuleChoice | None = None) -> None:
        self.trio = trio
        self.manifest = manifest
        self.rule = rule or RuleChoice()
        self.load_seconds = 0.0
        self._preparation = Preparation(trio, manifest, self.rule)
        self.engine = Engine(trio, trio.vocab.is_end, trio.n_vocab)
        self._loop = EngineLoop(self.engine)

    @classmethod
    def load(
        cls,
        trio: str | Path | TrioManifest | None = None,
        *,
        models: Mapping[Role, Path] | Mapping[Role, str] | Mapping[str, str] | None = None,
        weights: WeightsLike | None = None,
        rule: RuleChoice | str | None = None,
        plausibility: object | None = None,
        context: ContextParams | Mapping[str, object] | None = None,
        n_ctx: int | None = None,
        n_parallel: int | None = None,
        n_threads: int | None = None,
        repeatable: bool | None = None,
        rpc: str | Sequence[str] | Mapping[Role, Sequence[str]] | None = None,
        roles: Collection[Role | str] = (),
        on_progress: LoadProgress | None = None,
    ) -> TriMix:
        """Load what the weights need.

        Args:
            trio: an embedded one's name, a ``trio.toml``, its folder, a manifest; None: default.
            models: GGUF files by role, instead of the manifest's or of a manifest.
            weights, plausibility: instead of the manifest's.
            rule: instead of TriMix; later calls follow it too unless they name another.
            context: laid over the manifest's.
            n_ctx, n_parallel, n_threads, repeatable: fields of it: see :class:`ContextParams`.
            rpc: machines that compute, ``"HOST:PORT"`` or ``"large_ins=HOST:PORT,HOST:PORT"``; see
                :func:`trimix_edge.values.rpc`.
            roles: load these too, for later calls with other weights.
            on_progress: called with a role and the loaded part of its file.

        Raises:
            TriMixError: one of its kinds; see :mod:`trimix_edge.errors`.
        """
        start = perf_counter()
        files = {values.role(role): Path(path) for role, path in (models or {}).items()}
        chosen = RuleChoice() if rule is None else values.rule(rule)
        if weights is not None:
            chosen.refuse_weights()
        manifest = TrioManifest.find(trio, files)
        mask = None if plausibility is None else values.plausibility(plausibility)  # type: ignore[arg-type]
        manifest = replace(
            manifest,
            weights=manifest.weights if weights is None else values.weights(weights),
            plausibility=mask or manifest.plausibility,
            context=values.overlay(
                manifest.context,
                context,
                n_ctx=n_ctx,
                n_parallel=n_parallel,
                n_threads=n_threads,
                repeatable=repeatable,
                rpc=None if rpc is None else values.rpc(rpc),
            ),
        )
        available = {*manifest.models, *manifest.adapters}
        needed = {
            *map(values.role, roles),
            *rule_roles(chosen, manifest.weights, manifest.plausibility, available),
        }
        loaded = cls(
            Trio(
                manifest.models, needed, manifest.context, on_progress, adapters=manifest.adapters
            ),
            manifest,
            chosen,
        )
        loaded.load_seconds = perf_counter() - start
        return loaded

    @property
    def n_ctx(self) -> int:
        """Tokens that each sequence may hold."""
        return self.trio.n_ctx

    @property
    def n_parallel(self) -> int:
        """Generations that may run at once."""
        return self.trio.n_parallel

    @property
    def roles(self) -> tuple[Role, ...]:
        return self.trio.roles

    @property
    def vocab(self) -> Vocab:
        """The vocabulary that texts go through."""
        return self.trio.vocab

    @property
    def chat_template(self) -> str | None:
        """That of ``large_ins``."""
        return self.trio.lead.chat_template

    @property
    def is_idle(self) -> bool:
        """Whether no generation is waiting or running."""
        return self._loop.is_idle

    def render(self, messages: Sequence[Message], **variables: object) -> str:
        """A conversation as the chat template of ``large_ins`` writes it."""
        return self._preparation.render(messages, **variables)

    def tokenize(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        parse_special: bool = True,
        template_kwargs: Mapping[str, object] | None = None,
    ) -> list[int]:
        """The token ids that a prompt becomes; see :meth:`Preparation.tokenize`."""
        return self._preparation.tokenize(
            prompt, chat=chat, parse_special=parse_special, template_kwargs=template_kwargs
        )

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for, often a part of a character; control tokens are empty."""
        return self.trio.vocab.token_bytes(token)

    def _prepare(self, prompt: Prompt, options: GenerationOptions) -> Run:
        run = self._preparation.run(prompt, options)
        self.engine.check(run.prompt_token_ids)
        return run

    @takes(GenerationOptions)
    def submit(self, prompt: Prompt, options: GenerationOptions) -> Run:
        """Queue a generation, for :meth:`step`; arguments as in :meth:`stream`."""
        run = self._prepare(prompt, options)
        self._loop.add(run)
        return run

    def step(self) -> list[tuple[Run, GenerationChunk]]:
        """One step of all generations: for a server, which calls this from a thread of its own."""
        return self._loop.step()

    @takes(GenerationOptions)
    def stream(self, prompt: Prompt, options: GenerationOptions) -> Stream:
        """Continue a prompt, a chunk a token.

        Args:
            prompt: see :data:`Prompt`.
            options: see :class:`GenerationOptions`.

        Raises:
            TriMixError: one of its kinds; see :mod:`trimix_edge.errors`.
        """
        return Stream(self._loop, self._prepare(prompt, options))

    @takes(GenerationOptions)
    def batch_stream(
        self, prompts: Sequence[Prompt], options: GenerationOptions
    ) -> Iterator[tuple[int, GenerationChunk]]:
        """Continue several prompts at once: the index of a prompt, and its next chunk."""
        return self._loop.follow([self._prepare(prompt, options) for prompt in prompts])

    @takes(GenerationOptions)
    def generate(self, prompt: Prompt, options: GenerationOptions) -> Generation:
        """Continue a prompt to its end; arguments as in :meth:`stream`. For a list of prompts the
        result is a list: see :meth:`generate_all`."""
        if not isinstance(prompt, str) and isinstance(prompt, Sequence) and prompt:
            first = prompt[0]
            if isinstance(first, str) or (isinstance(first, Sequence) and first):
                many = [self._prepare(cast("Prompt", one), options) for one in prompt]
                return cast("Generation", self._loop.run_all(many))
        return self._loop.run_all([self._prepare(prompt, options)])[0]

    @takes(GenerationOptions)
    def generate_all(
        self, prompts: Sequence[Prompt], options: GenerationOptions
    ) -> list[Generation]:
        """Continue several prompts, up to ``n_parallel`` of them at once."""
        return self._loop.run_all([self._prepare(prompt, options) for prompt in prompts])

    @takes(GenerationOptions)
    def chat(self, messages: Sequence[Message], options: GenerationOptions) -> Generation:
        """The assistant's next turn in a conversation; arguments as in :meth:`stream`."""
        return self._loop.run_all([self._prepare(messages, options)])[0]

    def fusion_rule(
        self,
        rule: RuleChoice | str | None = None,
        weights: WeightsLike | None = None,
        plausibility: object | None = None,
        *,
        masked: bool = True,
    ) -> FusionRule:
        """See :meth:`Preparation.fusion_rule`."""
        return self._preparation.fusion_rule(rule, weights, plausibility, masked=masked)

    def score(
        self,
        text: str,
        condition: Prompt | None = None,
        *,
        weights: WeightsLike | None = None,
        rule: RuleChoice | str | None = None,
        roles: Collection[Role] | None = None,
        chat: bool | None = None,
        stride: int | None = None,
        on_progress: ScoreProgress | None = None,
    ) -> Score:
        """What each token of a text costs, given what comes before it.

        The plausibility constraint is left out: under it most texts would be impossible.

        Args:
            condition: a prompt, which is not scored. Dynamic weights are chosen on it; ``auto``
                without one reads the text itself, its first window, once more before it is scored.
            weights, rule: as for :meth:`stream`.
            roles: also score each of these alone; all loaded ones if None.
            chat: whether the condition goes through the chat template, as for :meth:`tokenize`.
            stride: a text longer than the context is read through a window that moves by this many
                tokens; half the context if None.
            on_progress: called with the scored and all tokens of the text.

        Raises:
            PromptError: fewer than two tokens, or none after a condition.
            UsageError: the stride is out of range, or ``entropy`` has no condition to choose on.
        """
        fusion = self._preparation.fusion_rule(rule, weights, masked=False)
        before = [] if condition is None else self.tokenize(condition, chat=chat)
        if isinstance(fusion, DynamicFusion) and not fusion.reads_prompt and not before:
            raise UsageError(
                "weights entropy are chosen on the first token after a prompt: give a condition"
            )
        tokens = self.trio.vocab.tokenize(text, add_special=not before, parse_special=False)
        with self._loop.exclusive() as seq:
            return score_tokens(
                self.trio,
                fusion,
                before,
                tokens,
                len(text.encode()),
                roles=self.trio.roles if roles is None else roles,
                stride=stride,
                on_progress=on_progress,
                seq=seq,
            )

    def forget(self, n_kept: int = 0) -> None:
        """Forget what the models have read, but for the first ``n_kept`` tokens of each sequence:
        what a generation computes then depends on nothing that was asked before.

        Raises:
            UsageError: generations are running.
        """
        if not self.is_idle:
            raise UsageError("the models can't forget while generations run")
        with self._loop.exclusive():
            for seq in range(self.n_parallel):
                self.trio.truncate(seq, n_kept, self.roles)

    def save_prompt_cache(self, path: str | Path) -> None:
        """Keep what the models read last, so that prompts that begin like it start at once: see
        :func:`prompt_cache.save`, which also says what is raised.
        """
        with self._loop.exclusive():
            seq, identity = self._loop.last_used, self._cache_identity
            prompt_cache.save(Path(path), self.trio.contexts, identity, seq)

    def load_prompt_cache(self, path: str | Path) -> None:
        """Take up what :meth:`save_prompt_cache` has kept; of use to prompts that begin like it.

        Raises:
            PromptCacheError: it can't be used. What the models had read may be forgotten.
            TargetError: it is no prompt cache.
            UsageError: generations are running.
        """
        if not self.is_idle:
            raise UsageError("a prompt cache can't be loaded while generations run")
        with self._loop.exclusive():
            prompt_cache.load(Path(path), self.trio.contexts, self._cache_identity)

    @property
    def _cache_identity(self) -> dict[str, object]:
        return {
            "models": {str(role): of for role, of in self.trio.fingerprints.items()},
            "settings": {
                "kv_type": self.trio.context.kv_type,
                "llama_cpp_python": backend_info().llama_cpp_python,
            },
        }

    def close(self) -> None:
        """End all generations and free the models; safe to call again."""
        self._loop.end_all()
        self.trio.close()

    def __enter__(self) -> TriMix:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
