"""A trio as a model of lm-evaluation-harness, for its tasks and its figures.

    python -m trimix_edge.evaluate.harness --model trimix_edge \\
        --model_args trio=dzongkha,weights=0.1:0.9 --tasks TASK

is its own command line, with one model more. A comma separates arguments there, so a pair of
weights is written with a colon. See :class:`ModelArguments` for the others.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from trimix_edge import values
from trimix_edge.config import (
    ContextParams,
    Draft,
    Role,
    SamplingParams,
)
from trimix_edge.decoding.chat import Message, render_chat
from trimix_edge.decoding.scoring import TokenScores, score_tokens
from trimix_edge.errors import EvaluationError, TriMixError, UsageError
from trimix_edge.trimix import TriMix
from trimix_edge.trios.manifest import TrioManifest
from trimix_edge.weights import Weights

NAME = "trimix_edge"
_FORM = "LARGE_INS:SMALL_CPT, as in 0.1:0.9, nor auto or entropy"
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the length of an answer; the first one that is there counts."""

_log = logging.getLogger(__name__)


class Request(Protocol):
    """What is needed of an ``lm_eval.api.instance.Instance``."""

    @property
    def args(self) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class ModelArguments:
    """What may stand in ``--model_args``; what is absent is as the trio says.

    Attributes:
        trio: an embedded trio's name, a ``trio.toml`` or its folder.
        large_ins, small_cpt, small_base: GGUF files, instead of the trio's.
        weights: ``0.1:0.9``, as a comma ends an argument of lm-eval; or words, as ``auto``.
        rule, plausibility: as on the command line of ``trimix-edge evaluate``.
        n_ctx, n_batch, n_threads, kv_type: see :class:`~trimix_edge.config.ContextParams`.
        max_gen_toks: tokens of an answer where the task does not say.
        seed: of tasks that sample.
    """

    trio: str | None = None
    large_ins: str | None = None
    small_cpt: str | None = None
    small_base: str | None = None
    weights: str | None = None
    rule: str | None = None
    plausibility: str | None = None
    n_ctx: int | None = None
    n_batch: int | None = None
    n_threads: int | None = None
    kv_type: str | None = None
    max_gen_toks: int = 256
    seed: int = 0

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> ModelArguments:
        """Check what lm-eval made of an argument string.

        Raises:
            UsageError: an unknown name, or a value of the wrong kind.
        """
        hints = get_type_hints(cls)
        kinds = {name: int if "int" in str(hint) else str for name, hint in hints.items()}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in kinds:
                raise UsageError(f"model_args: unknown {name!r}; known: {', '.join(kinds)}")
            if isinstance(value, list | tuple):  # of JSON: a pair of weights
                value = ",".join(map(str, value))
            if kinds[name] is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise UsageError(f"model_args: {name} must be a whole number, not {value!r}")
            values[name] = kinds[name](value)
        found = cls(**values)
        if found.max_gen_toks < 1:
            raise UsageError(f"model_args: max_gen_toks is {found.max_gen_toks}, not 1 or more")
        return found

    @property
    def models(self) -> dict[Role, Path]:
        return {role: Path(path) for role in Role if (path := getattr(self, role.value))}

    @property
    def chosen_weights(self) -> Weights | None:
        if self.weights is not None and self.rule is not None:
            values.rule(self.rule).refuse_weights()
        if self.weights is None or self.weights.startswith("auto:"):
            return values.weights(self.weights) if self.weights else None
        try:
            return values.weights(self.weights.replace(":", ","))
        except UsageError:
            raise UsageError(f"model_args: weights={self.weights} is not {_FORM}") from None

    def load(self) -> TriMix:
        """The trio, loaded.

        Raises:
            TriMixError: one of its kinds; see :mod:`trimix_edge.errors`.
        """
        manifest = TrioManifest.find(self.trio, self.models or None)
        names = {field.name for field in fields(ContextParams)}
        changed = {n: v for n in names if (v := getattr(self, n, None)) is not None}
        return TriMix.load(
            self.trio,
            models=self.models or None,
            weights=self.chosen_weights,
            rule=None if self.rule is None else values.rule(self.rule),
            plausibility=self.plausibility,
            context=replace(manifest.context, **changed),
        )


class HarnessModel:
    """The methods that lm-evaluation-harness calls, on a loaded trio.

    A text is tokenized together with what comes before it, and split there, as the harness does it
    for its own models: tokens of another split would be other tokens.
    """

    cache_hook: Any = None

    def __init__(self, trimix: TriMix, max_gen_toks: int = 256, seed: int = 0) -> None:
        self._trimix = trimix
        self._max_gen_toks = max_gen_toks
        self._seed = seed
        self._has_cut = False

    def loglikelihood(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Of each ``(context, continuation)`` the nats, and whether greedy decoding writes it."""
        found = []
        for request in _shown(requests, "loglikelihood", disable_tqdm):
            context, continuation = request.args
            result = (0.0, True)
            if continuation:
                scores = self._scores(*self._split(context, continuation))
                result = (float(scores.logprobs.sum()), bool(scores.greedy.all()))
            self._remember("loglikelihood", request, result)
            found.append(result)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[float]:
        """Of each ``(text,)`` the nats of all its tokens.

        A text longer than the context is read in windows that do not overlap, as in the harness.
        """
        found = []
        for request in _shown(requests, "loglikelihood_rolling", disable_tqdm):
            text, result = request.args[0], 0.0
            if text:
                before, tokens = self._split("", text)
                if len(tokens) > 1:  # no prompt: weights that are chosen on one read the text
                    before, tokens = [], [*before, *tokens]
                scores = self._scores(before, tokens, self._trimix.n_ctx)
                result = float(scores.logprobs.sum())
            self._remember("loglikelihood_rolling", request, result)
            found.append(result)
        return found

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """Of each ``(context, settings)`` the text up to the first of its stop strings."""
        found = []
        for number, request in enumerate(_shown(requests, "generate_until", disable_tqdm)):
            context, settings = request.args
            lengths = (settings[name] for name in _LENGTHS if settings.get(name) is not None)
            max_tokens = int(next(lengths, self._max_gen_toks))
            until = settings.get("until") or []
            done = self._trimix.generate(
                self._fitting(context, max_tokens),
                chat=False,
                max_tokens=max_tokens,
                stop=[text for text in ([until] if isinstance(until, str) else until) if text],
                sampling=asdict(self._sampling(settings, number)),
                draft=Draft(0),  # see System.options
            )
            self._remember("generate_until", request, done.text)
            found.append(done.text)
        return found

    def apply_chat_template(
        self, chat_history: Sequence[Message], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as a text, by the template of large_ins.

        Raises:
            TemplateError: there is none, or it fails.
            UsageError: a turn of the model shall be continued: templates have no form for that.
        """
        if not add_generation_prompt:
            raise UsageError("a task with gen_prefix can't go through a chat template here")
        vocab = self._trimix.vocab
        bos = vocab.special_text(vocab.bos)
        text = render_chat(
            self._trimix.chat_template,
            chat_history,
            bos=bos,
            eos=vocab.special_text(vocab.eos),
        )
        # Tokenizing the text adds BOS: a template that writes it must not make it two.
        return text.removeprefix(bos) if bos and vocab.adds_bos else text

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self._trimix.chat_template or ""

    @property
    def tokenizer_name(self) -> str:
        """Part of a name in the harness's cache of requests."""
        return f"{NAME}-{self._trimix.manifest.name}"

    def close(self) -> None:
        """Free the models."""
        self._trimix.close()

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens before a continuation, at least one, and its own, at least one."""
        kept = context.rstrip()  # the space before a word is a part of its token
        continuation = context[len(kept) :] + continuation
        vocab = self._trimix.vocab
        before, tokens = vocab.tokenize(kept), vocab.tokenize(kept + continuation)
        if not before:
            first = vocab.bos if vocab.bos >= 0 else vocab.eos
            before, tokens = [first], [first, *tokens]
        at = min(len(before), len(tokens) - 1)
        return tokens[:at], tokens[at:]

    def _scores(
        self, before: list[int], tokens: list[int], stride: int | None = None
    ) -> TokenScores:
        trio, rule = self._trimix.trio, self._trimix.fusion_rule(masked=False)
        return score_tokens(trio, rule, before, tokens, 0, roles=(), stride=stride).fused

    def _fitting(self, context: str, max_tokens: int) -> str:
        """The end of a context that leaves room for an answer, half the window at most."""
        n_ctx = self._trimix.n_ctx
        room = max(n_ctx - max_tokens, n_ctx // 2)
        if self._n_tokens(context) <= room:
            return context
        if not self._has_cut:
            self._has_cut = True
            _log.warning("prompts of more than %d tokens lose their beginning: raise n_ctx", room)
        low, high = 0, len(context)  # characters that are cut: too few, enough
        while high - low > 1:
            middle = (low + high) // 2
            if self._n_tokens(context[middle:]) <= room:
                high = middle
            else:
                low = middle
        return context[high:]

    def _n_tokens(self, text: str) -> int:
        return len(self._trimix.vocab.tokenize(text))

    def _sampling(self, settings: Mapping[str, Any], number: int) -> SamplingParams:
        """Greedy unless a task wants to sample; then each request has a seed of its own."""
        temperature = float(settings.get("temperature") or 0.0)
        if not settings.get("do_sample", temperature > 0):
            return SamplingParams()
        return SamplingParams(
            temperature=temperature or 1.0,
            top_k=int(settings.get("top_k") or 0),
            top_p=float(settings.get("top_p") or 1.0),
            min_p=float(settings.get("min_p") or 0.0),
            seed=self._seed + number,
        )

    def _remember(self, method: str, request: Request, result: object) -> None:
        """Hand a result to the harness's cache (``--use_cache``)."""
        if self.cache_hook is not None:
            self.cache_hook.add_partial(method, request.args, result)


def _shown(requests: Sequence[Request], method: str, is_quiet: bool) -> Iterator[Request]:
    from tqdm import tqdm

    yield from tqdm(requests, desc=method, disable=is_quiet or None)


@cache
def register() -> type[HarnessModel]:
    """Make ``--model trimix_edge`` known.

    Raises:
        EvaluationError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError:
        raise EvaluationError(
            "lm-eval is not installed: pip install 'trimix-edge[lm-eval]'"
        ) from None

    class TriMixEdge(HarnessModel, LM):  # type: ignore[misc]
        def __init__(
            self,
            *,
            batch_size: object = None,
            max_batch_size: object = None,
            device: object = None,
            **given: Any,
        ) -> None:
            """What the harness says of batches and devices is llama.cpp's own business here."""
            arguments = ModelArguments.read(given)
            LM.__init__(self)
            HarnessModel.__init__(self, arguments.load(), arguments.max_gen_toks, arguments.seed)

    register_model(NAME)(TriMixEdge)
    return TriMixEdge


def main() -> int:
    """lm-eval's command line with one model more; returns the exit code."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except TriMixError as error:
        print(f"trimix-edge: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
