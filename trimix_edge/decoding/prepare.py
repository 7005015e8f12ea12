"""From a prompt and options to a run that the engine can take."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from trimix_edge import values
from trimix_edge.config import RuleChoice
from trimix_edge.decoding.chat import Message, render_chat, tokenize_chat
from trimix_edge.decoding.options import GenerationOptions
from trimix_edge.decoding.run import Run
from trimix_edge.decoding.sequence import Sequence as TokenSequence
from trimix_edge.decoding.trio import Trio
from trimix_edge.errors import PromptError, TrioConfigError, UsageError
from trimix_edge.fusion.choose import make_rule
from trimix_edge.fusion.rule import FusedBuffer, FusionRule
from trimix_edge.llama import Sampler
from trimix_edge.trios.manifest import TrioManifest
from trimix_edge.weights import of_trio

Prompt = str | Sequence[Message] | Sequence[int]
"""A text that is continued, a conversation that goes through the chat template, or token ids."""


DEFAULT_MAX_TOKENS = 1024
"""Where neither the call nor the manifest says a number: a text that loops must end some day."""


class Preparation:
    """What turns prompts into tokens, and a call's options over the manifest's into a run.

    Args:
        rule: in force where a call names none.
    """

    def __init__(self, trio: Trio, manifest: TrioManifest, rule: RuleChoice) -> None:
        self._trio = trio
        if manifest.normalizer is not None:
            trio.vocab.normalizer = manifest.normalizer
        self._manifest = manifest
        self._rule = rule
        self._buffer = FusedBuffer(trio.n_vocab)
        self._preparing = threading.Lock()

    def render(self, messages: Sequence[Message], **variables: object) -> str:
        """A conversation as the chat template of ``large_ins`` writes it."""
        vocab = self._trio.vocab
        bos, eos = vocab.special_text(vocab.bos), vocab.special_text(vocab.eos)
        return render_chat(self._trio.lead.chat_template, messages, bos=bos, eos=eos, **variables)

    def tokenize(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        parse_special: bool = True,
        template_kwargs: Mapping[str, object] | None = None,
    ) -> list[int]:
        """The token ids that a prompt becomes, the chat template applied where it is wanted.

        Args:
            chat: send a text through the chat template, as one user turn; None for what the
                manifest says. A conversation always goes through it.
            parse_special: read the spelling of control tokens in a raw text as these tokens.
            template_kwargs: variables for the chat template.

        Raises:
            PromptError, TemplateError: see :func:`tokenize_chat`.
            UsageError: the prompt is neither a text, nor messages, nor token ids.
        """
        vocab = self._trio.vocab
        if not isinstance(prompt, str):
            if not isinstance(prompt, Sequence) or isinstance(prompt, (bytes, bytearray)):
                raise UsageError(
                    f"a prompt is a text, a list of messages or token ids, not {type(prompt)}"
                )
            if prompt and all(type(item) is int for item in prompt):
                return self._checked_ids(cast("Sequence[int]", prompt))
        elif not (self._manifest.chat if chat is None else chat):
            return vocab.tokenize(prompt, parse_special=parse_special)
        else:
            prompt = cast("Sequence[Message]", [{"role": "user", "content": prompt}])
        messages = cast("Sequence[Message]", prompt)
        return tokenize_chat(
            vocab, self._trio.lead.chat_template, messages, **(template_kwargs or {})
        )

    def _checked_ids(self, ids: Sequence[int]) -> list[int]:
        for token in ids:
            if not 0 <= token < self._trio.n_vocab:
                raise PromptError(f"token {token} is not in a vocabulary of {self._trio.n_vocab}")
        return list(ids)

    def run(self, prompt: Prompt, options: GenerationOptions) -> Run:
        manifest = self._manifest
        tokens = self.tokenize(
            prompt,
            chat=options.chat,
            parse_special=options.parse_special,
            template_kwargs=options.template_kwargs,
        )
        asked = manifest.max_tokens if options.max_tokens is None else options.max_tokens
        max_tokens = DEFAULT_MAX_TOKENS if asked is None else asked
        stop = manifest.stop if options.stop is None else options.stop
        draft = manifest.draft if options.draft is None else values.draft(options.draft)
        if self._trio.context.repeatable:
            draft = replace(draft, n_tokens=0)
        if draft.n_tokens is not None and draft.n_tokens >= self._trio.max_rows:
            raise UsageError(
                f"draft is {draft.n_tokens}, but a batch of {self._trio.max_rows} tokens has no "
                f"room for it: lower draft or raise n_batch"
            )
        with self._preparing:  # a grammar's parser writes to a descriptor that is turned aside
            rule = self.fusion_rule(options.rule, options.weights, options.plausibility)
            missing = [str(role) for role in rule.needs if role not in self._trio.roles]
            if missing:
                raise TrioConfigError(f"{', '.join(missing)}: needed here, but not loaded")
            sampling = options.sampling_over(manifest.sampling)
            sampler = Sampler(self._trio.vocab, self._trio.n_vocab, sampling)
        rule.begin(tokens)
        sequence = TokenSequence(
            prompt=tokens,
            rule=rule,
            sampler=sampler,
            max_tokens=None if max_tokens < 0 else max_tokens,
            draft=draft,
            ignore_end=options.ignore_eos,
            top=options.top,
            explain=options.explain,
            reuse=options.cache_prompt,
            on_progress=options.on_progress,
        )
        return Run(
            sequence,
            sampler.seed,
            self._trio.vocab.token_bytes,
            values.stop(stop),
            is_limit_asked=asked is not None,
        )

    def fusion_rule(
        self,
        rule: object | None = None,
        weights: object | None = None,
        plausibility: object | None = None,
        *,
        masked: bool = True,
    ) -> FusionRule:
        """The rule object of one generation: what is None is as at loading.

        Args:
            masked: False for no plausibility constraint at all.

        Raises:
            TrioConfigError: weights are chosen by prompt, and a role for that is not loaded.
            UsageError: a value can't be understood.
        """
        if rule is None:  # weights alone mean TriMix
            chosen = self._rule if weights is None else RuleChoice()
        else:
            chosen = values.rule(rule)  # type: ignore[arg-type]
        mask = None if plausibility is None else values.plausibility(plausibility)  # type: ignore[arg-type]
        in_force = self._manifest.weights if weights is None else values.weights(weights)  # type: ignore[arg-type]
        return make_rule(
            chosen,
            of_trio(in_force, self._manifest.script),
            self._trio.n_vocab,
            (mask or self._manifest.plausibility) if masked else None,
            self._trio.roles,
            self._buffer,
            self._trio.vocab.token_bytes,
        )
