"""How fast a trio is here: each model alone, fused, and fused with drafting, in the manner of
llama-bench.

Cases take turns, so that a machine that gets warm or busy spoils them alike; figures are medians
over the turns. Where the weights are random, so is what they say: then the acceptance of drafted
tokens is simulated, and everything that depends on it is marked so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter

import numpy as np
import psutil

from trimix_edge.config import Draft, FusionWeights, Role, SamplingParams
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.sequence import Sequence as TokenSequence
from trimix_edge.decoding.trio import Trio
from trimix_edge.fusion.linear import LinearFusion
from trimix_edge.llama import Sampler
from trimix_edge.measure.simulated import Agreeing
from trimix_edge.trimix import TriMix

SENTENCES = (
    "Click OK to close the dialog and save the file under another name.",
    "The chart shows the values of the selected table in the order of its rows.",
    "Opens a window in which the colour and the width of a line can be set.",
    "To insert a formula, choose the command from the menu, and then type it.",
)
"""What a trio is given to go on from where nothing else is said."""

SHARED = 512
"""Tokens of the two prompts that share 90 % of them."""

BenchProgress = Callable[[str, int, int], None]
"""Called with the name of a case, the runs that are done, and all of them."""


@dataclass(frozen=True)
class BenchParams:
    """What is measured.

    Attributes:
        n_prompt: tokens of the prompt whose evaluation is timed.
        n_generate: tokens that are generated at most.
        n_runs: turns.
        acceptance: simulated share of drafted tokens that are right; None for the real one.
        prompts: texts to go on from.
    """

    n_prompt: int = 128
    n_generate: int = 64
    n_runs: int = 5
    acceptance: float | None = None
    prompts: tuple[str, ...] = SENTENCES


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        baseline: the case of the same trio without drafting that its speed is compared with.
    """

    name: str
    weights: FusionWeights
    draft: Draft = field(default_factory=lambda: Draft(0))
    sampling: SamplingParams = field(default_factory=SamplingParams)
    baseline: str | None = None


@dataclass
class Measured:
    """What one case did, turn by turn.

    Attributes:
        token_seconds: of a generated token, everything included.
        outside_seconds: of a generated token, what is not inside ``llama_decode``.
        drafted, accepted, rounds, tokens: summed over all turns.
        arms: tokens a second that each draft length brought lately, and rounds that used it.
    """

    case: Case
    token_seconds: list[float] = field(default_factory=list)
    outside_seconds: list[float] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    tokens: int = 0
    arms: dict[int, tuple[float, int]] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return 1.0 / median(self.token_seconds)

    @property
    def outside_ms(self) -> float:
        return 1e3 * median(self.outside_seconds)

    @property
    def outside_share(self) -> float:
        pairs = zip(self.outside_seconds, self.token_seconds, strict=True)
        return median(outside / whole for outside, whole in pairs)

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.drafted if self.drafted else None

    def speedup_over(self, other: Measured) -> float:
        """The median, over turns, of how many times as fast this is."""
        pairs = zip(other.token_seconds, self.token_seconds, strict=True)
        return median(theirs / ours for theirs, ours in pairs)


@dataclass(frozen=True)
class BenchReport:
    """Everything that was measured.

    Attributes:
        prompt_seconds: of a prompt of ``params.n_prompt`` tokens, by role.
        measured: by the name of the case.
        peak_memory: bytes that the process held at most.
        file_bytes, kv_bytes: of the models' files, and of the KV caches.
        shared_start: time to the first token of a prompt of ``n_shared`` tokens of which the first
            90 % were read before, over that of a prompt that is new.
        simulated: whether acceptance is not that of these models.
    """

    params: BenchParams
    prompt_seconds: dict[Role, float]
    measured: dict[str, Measured]
    peak_memory: int
    file_bytes: int
    kv_bytes: int
    n_shared: int
    shared_start: float
    simulated: bool


def cases(trimix: TriMix, acceptance: float | None) -> list[Case]:
    """Each model alone, and the fusions that its files allow, with and without drafting."""
    roles = trimix.roles
    found = [Case(f"{role} alone", FusionWeights.single(role)) for role in roles]
    fusions: dict[str, FusionWeights] = {}
    if acceptance is None:
        own = trimix.manifest.weights
        if isinstance(own, FusionWeights):  # and not chosen by prompt
            fusions["fused"] = own
        if not isinstance(own, FusionWeights) or own.roles != (Role.LARGE_INS, Role.SMALL_CPT):
            fusions["fused, weights 0.1, 0.9"] = FusionWeights(0.1, 0.9)
    else:
        fusions["two models"] = FusionWeights(0.1, 0.9)
        if Role.SMALL_BASE in roles:
            fusions["three models"] = FusionWeights(0.3, 0.9)
    samplings = {"": SamplingParams()}
    if acceptance is None:
        given = trimix.manifest.sampling if trimix.manifest.path else SamplingParams()
        samplings = {"": given, ", sampled": replace(given, temperature=0.8, seed=1)}
    for fusion, weights in fusions.items():
        if not set(weights.roles) <= set(roles):
            continue
        for suffix, sampling in samplings.items():
            plain = f"{fusion}{suffix}"
            found.append(Case(plain, weights, Draft(0), sampling))
            # Random weights are sure of nothing, and repeat nothing.
            auto = Draft() if acceptance is None else Draft(p_min=0.0, ngrams=False)
            found.append(Case(f"{plain}, drafting", weights, auto, sampling, plain))
    return found


def run_bench(
    trimix: TriMix, params: BenchParams, on_progress: BenchProgress | None = None
) -> BenchReport:
    """Measure a loaded trio; its contexts must hold prompt and generation."""
    wanted = cases(trimix, params.acceptance)
    measured = {case.name: Measured(case) for case in wanted}
    is_end = trimix.vocab.is_end if params.acceptance is None else _never
    trio = trimix.trio
    # Each case learns by itself what drafting brings, as in a process of its own.
    engines = {case.name: Engine(trio, is_end, trio.n_vocab) for case in wanted}
    prompts = [trimix.tokenize(text) for text in params.prompts]
    if params.acceptance is not None:
        prompts = prompts[:1]
    total = (params.n_runs + 1) * len(wanted)
    for turn in range(params.n_runs + 1):  # the first one warms up: kernels, caches, estimates
        for n, case in enumerate(wanted):
            run = measured[case.name]
            engine = engines[case.name]
            _measure(trio, engine, params, case, prompts, turn, run if turn else Measured(case))
            if case.draft.n_tokens is None:
                arms = engine.drafting.policy(case.weights.roles).arms
                run.arms = {n: (arm.rate, arm.n_rounds) for n, arm in arms.items()}
            if on_progress is not None:
                on_progress(case.name, turn * len(wanted) + n + 1, total)
    n_shared = min(SHARED, trimix.n_ctx - 1)
    return BenchReport(
        params=params,
        prompt_seconds=_prompt_seconds(trimix, params),
        measured=measured,
        peak_memory=peak_memory(),
        file_bytes=trimix.trio.n_file_bytes,
        kv_bytes=trimix.trio.n_kv_bytes,
        n_shared=n_shared,
        shared_start=_shared_start(trimix, measured, n_shared),
        simulated=params.acceptance is not None,
    )


def _measure(
    trio: Trio,
    engine: Engine,
    params: BenchParams,
    case: Case,
    prompts: Sequence[list[int]],
    turn: int,
    into: Measured,
) -> None:
    """Generate once from each prompt."""
    seconds = outside = 0.0
    tokens = 0
    for prompt in prompts:
        with Sampler(trio.vocab, trio.n_vocab, case.sampling) as real:
            sampler: Sampler | Agreeing = real
            if params.acceptance is not None:
                sampler = Agreeing(params.acceptance, turn)
            sequence = TokenSequence(
                prompt,
                LinearFusion(case.weights, trio.n_vocab),
                sampler,
                max_tokens=params.n_generate,
                draft=case.draft,
                ignore_end=True,
            )
            run_alone(engine, sequence)
        seconds += sequence.timings.generation
        outside += sequence.timings.outside
        tokens += len(sequence.generated) - 1  # the first one belongs to the prompt
        into.drafted += sequence.drafted.drafted
        into.accepted += sequence.drafted.accepted
        into.rounds += sequence.drafted.rounds
    into.tokens += tokens
    into.token_seconds.append(seconds / max(tokens, 1))
    into.outside_seconds.append(outside / max(tokens, 1))


def run_alone(engine: Engine, sequence: TokenSequence) -> None:
    """Step until a sequence has ended.

    Raises:
        DecodeError: what ended it.
    """
    engine.add(sequence)
    while sequence.finish_reason is None:
        engine.step()
    if sequence.error is not None:
        raise sequence.error


def _shared_start(trimix: TriMix, measured: dict[str, Measured], n: int) -> float:
    """How the prompt cache shortens the way to the first token, with the models of a fusion."""
    trio = trimix.trio
    weights = max((run.case.weights for run in measured.values()), key=lambda w: len(w.roles))
    rng = np.random.default_rng(0)
    n_ids = min(trio.n_vocab, 256)
    ratios: list[float] = []
    spent = 0.0
    trimix.forget()  # what was read before may begin like the first prompt
    engine = Engine(trio, _never, trio.n_vocab)
    while len(ratios) < 3 and spent < 10.0:
        first = rng.integers(0, n_ids, n).tolist()
        second = [*first[: n * 9 // 10], *rng.integers(0, n_ids, n - n * 9 // 10).tolist()]
        seconds = []
        for prompt in (first, second):
            with Sampler(trio.vocab, trio.n_vocab, SamplingParams()) as sampler:
                start = perf_counter()
                rule = LinearFusion(weights, trio.n_vocab)
                run_alone(engine, TokenSequence(prompt, rule, sampler, max_tokens=1))
                seconds.append(perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
        spent += sum(seconds)
    return median(ratios)


def _never(token: int) -> bool:
    return False


def _prompt_seconds(trimix: TriMix, params: BenchParams) -> dict[Role, float]:
    trio = trimix.trio
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, min(trio.n_vocab, 256), params.n_prompt).tolist()
    found: dict[Role, list[float]] = {role: [] for role in trio.roles}
    for _ in range(min(params.n_runs, 3)):
        for role in trio.roles:
            before = trio.decode_seconds[role]
            sequence = trio.sequence([role])
            for at in range(0, len(tokens), trio.n_batch):
                sequence.decode(tokens[at : at + trio.n_batch], abortable=True)
            found[role].append(trio.decode_seconds[role] - before)
    return {role: median(seconds) for role, seconds in found.items()}


def peak_memory() -> int:
    """Bytes of memory that this process has held at most."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
