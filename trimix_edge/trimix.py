"""The facade: a trio, its fusion rule and its samplers behind a few verbs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from trimix_edge.config import (
    ContextParams,
    Draft,
    Plausibility,
    Role,
    RuleChoice,
    Weights,
)
from trimix_edge.decoding import prompt_cache
from trimix_edge.decoding.batch_costs import BatchCosts, CostFile, CostProgress, measure
from trimix_edge.decoding.chat import Message, tokenize_chat
from trimix_edge.decoding.experience import Experience
from trimix_edge.decoding.generation import Generation, GenerationChunk, GenerationOptions, Run
from trimix_edge.decoding.scoring import Score, ScoreProgress, score_tokens
from trimix_edge.decoding.trio import LoadProgress, Trio
from trimix_edge.errors import UsageError
from trimix_edge.fusion.by_prompt import DynamicFusion
from trimix_edge.fusion.choose import make_rule, rule_roles
from trimix_edge.fusion.rule import FusionRule
from trimix_edge.llama import backend_info
from trimix_edge.trios.manifest import TrioManifest

if TYPE_CHECKING:
    from typing_extensions import Unpack

Prompt = str | Sequence[Message]
"""A text that is continued, or a conversation that goes through the chat template."""


class TriMix:
    """A loaded trio. Use it as a context manager, from one thread at a time, and let a stream end
    before the next call: a stream that was overtaken raises a :class:`UsageError`.

    >>> with TriMix.load("dzongkha") as trimix:
    ...     for chunk in trimix.stream("Save the file."):
    ...         print(chunk.text, end="", flush=True)
    """

    def __init__(self, trio: Trio, manifest: TrioManifest, rule: RuleChoice | None = None) -> None:
        self.trio = trio
        self.manifest = manifest
        self.rule = rule or RuleChoice()
        self.load_seconds = 0.0
        self._costs = BatchCosts()
        self._experiences: dict[frozenset[Role], Experience] = {}

    @classmethod
    def load(
        cls,
        trio: str | Path | None = None,
        *,
        models: Mapping[Role, str | Path] | None = None,
        weights: Weights | None = None,
        rule: RuleChoice | None = None,
        plausibility: Plausibility | None = None,
        context: ContextParams | None = None,
        roles: Collection[Role] = (),
        on_progress: LoadProgress | None = None,
    ) -> TriMix:
        """Load what the weights need.

        Args:
            trio: an embedded trio's name, a ``trio.toml``, its folder; None for the default one.
            models: GGUF files by role, instead of the manifest's or of a manifest.
            weights, plausibility: instead of the manifest's.
            rule: instead of TriMix; later calls follow it too unless they name another.
            context: instead of the manifest's.
            roles: load these too, for later calls with other weights.
            on_progress: called with a role and the loaded part of its file.

        Raises:
            TriMixError: one of its kinds; see :mod:`trimix_edge.errors`.
        """
        start = perf_counter()
        files = {Role.parse(role): Path(path) for role, path in (models or {}).items()}
        manifest = TrioManifest.find(trio, files)
        manifest = replace(
            manifest,
            weights=weights or manifest.weights,
            plausibility=plausibility or manifest.plausibility,
            context=context or manifest.context,
        )
        rule = rule or RuleChoice()
        available = {*manifest.models, *manifest.adapters}
        needed = {
            *roles,
            *rule_roles(rule, manifest.weights, manifest.plausibility, available),
        }
        trio_loaded = Trio(
            manifest.models, needed, manifest.context, on_progress, adapters=manifest.adapters
        )
        loaded = cls(trio_loaded, manifest, rule)
        loaded.load_seconds = perf_counter() - start
        return loaded

    def tokenize(self, prompt: Prompt, *, chat: bool | None = None) -> list[int]:
        """The token ids that a prompt becomes, the chat template applied where it is wanted.

        Args:
            chat: send a text through the chat template, as one user turn; None for what the
                manifest says. A conversation always goes through it.

        Raises:
            PromptError, TemplateError, UsageError: see :func:`tokenize_chat`.
        """
        vocab = self.trio.vocab
        if isinstance(prompt, str):
            if not (self.manifest.chat if chat is None else chat):
                return vocab.tokenize(prompt)
            prompt = [{"role": "user", "content": prompt}]
        return tokenize_chat(vocab, self.trio.lead.chat_template, prompt)

    def stream(
        self, prompt: Prompt, **options: Unpack[GenerationOptions]
    ) -> Iterator[GenerationChunk]:
        """Continue a prompt, a chunk a token.

        Args:
            prompt: see :data:`Prompt`.
            options: see :class:`GenerationOptions`.

        Raises:
            TriMixError: one of its kinds; see :mod:`trimix_edge.errors`.
        """
        return self._run(prompt, options).stream()

    def generate(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Generation:
        """Continue a prompt to its end; arguments as in :meth:`stream`."""
        run = self._run(prompt, options)
        text = "".join(chunk.text for chunk in run.stream())
        return run.result(text)

    def chat(self, messages: Sequence[Message], **options: Unpack[GenerationOptions]) -> Generation:
        """The assistant's next turn in a conversation; arguments as in :meth:`stream`."""
        return self.generate(messages, **options)

    def fusion_rule(
        self,
        rule: RuleChoice | None = None,
        weights: Weights | None = None,
        plausibility: Plausibility | None = None,
    ) -> FusionRule:
        """The rule object of one generation: what is None is as at loading.

        Raises:
            TrioConfigError: weights are chosen by prompt, and a role for that is not loaded.
        """
        if rule is None:  # weights alone mean TriMix
            rule = self.rule if weights is None else RuleChoice()
        return make_rule(
            rule,
            weights or self.manifest.weights,
            self.trio.n_vocab,
            plausibility or self.manifest.plausibility,
            self.trio.roles,
        )

    def score(
        self,
        text: str,
        condition: Prompt | None = None,
        *,
        weights: Weights | None = None,
        rule: RuleChoice | None = None,
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
        fusion = make_rule(
            rule or (self.rule if weights is None else RuleChoice()),
            weights or self.manifest.weights,
            self.trio.n_vocab,
            None,
            self.trio.roles,
        )
        before = [] if condition is None else self.tokenize(condition, chat=chat)
        if isinstance(fusion, DynamicFusion) and not fusion.reads_prompt and not before:
            raise UsageError(
                "weights entropy are chosen on the first token after a prompt: give a condition"
            )
        tokens = self.trio.vocab.tokenize(text, add_special=not before, parse_special=False)
        return score_tokens(
            self.trio,
            fusion,
            before,
            tokens,
            len(text.encode()),
            roles=self.trio.roles if roles is None else roles,
            stride=stride,
            on_progress=on_progress,
        )

    def measure_batches(
        self, on_progress: CostProgress | None = None, *, anew: bool = False
    ) -> BatchCosts:
        """What batches of tokens cost the loaded models here; of models that were measured before,
        on this machine with these settings, it is known.

        Drafting needs it to know what pays off, and asks for it if nobody did. Measuring empties
        the contexts.

        Args:
            on_progress: called with a role, the measured and all batch sizes.
            anew: measure also what is known.
        """
        if anew or not self._costs.seconds:
            file = CostFile(self.trio.conditions)
            fingerprints = self.trio.fingerprints
            costs = None if anew else file.load(fingerprints)
            if costs is None:
                costs = measure(self.trio, self.trio.roles, on_progress)
                file.save(costs, fingerprints)
            self._costs = costs
            for experience in self._experiences.values():
                experience.costs = costs
        return self._costs

    def experience_of(self, roles: Collection[Role]) -> Experience:
        """What was learned about drafting with these models: with others, a token takes another
        time, and guesses are right another part of it."""
        return self._experiences.setdefault(frozenset(roles), Experience(costs=self._costs))

    def save_prompt_cache(self, path: str | Path) -> None:
        """Keep what the models have read, so that prompts that begin like it start at once.

        Raises:
            TargetError, DiskSpaceError: see :func:`prompt_cache.save`.
        """
        prompt_cache.save(Path(path), self.trio.contexts, self._cache_identity)

    def load_prompt_cache(self, path: str | Path) -> None:
        """Take up what :meth:`save_prompt_cache` has kept; of use to prompts that begin like it.

        Raises:
            PromptCacheError: it can't be used. What the models had read may be forgotten.
            TargetError: it is no prompt cache.
        """
        if self.manifest.draft.n_tokens is None:
            self.measure_batches()  # now: it needs empty contexts
        self.trio.start(())  # so that a stream that has not ended notices
        prompt_cache.load(Path(path), self.trio.contexts, self._cache_identity)

    def _run(self, prompt: Prompt, options: GenerationOptions) -> Run:
        known = GenerationOptions.__annotations__
        for name in options.keys() - known.keys():
            raise TypeError(f"{name!r} is no option of a generation: {', '.join(known)}")
        rule = self.fusion_rule(
            options.get("rule"), options.get("weights"), options.get("plausibility")
        )
        tokens = self.tokenize(prompt, chat=options.get("chat"))
        return Run(self.trio, self.manifest, rule, tokens, options, self._experience_for)

    def _experience_for(self, draft: Draft, roles: Collection[Role]) -> Experience:
        if draft.n_tokens is None:
            self.measure_batches()
        return self.experience_of(roles)

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
        """Free the models; safe to call again."""
        self.trio.close()

    def __enter__(self) -> TriMix:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
