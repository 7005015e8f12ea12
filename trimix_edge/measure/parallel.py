"""How fast many sequences are at once: in total, for each, and against what llama.cpp allows.

For each number of sequences, single models and the fusion take turns. What llama.cpp's own batches
allow is measured in the same turns: one token for each of N sequences in a bare ``llama_decode`` of
each model, nothing fused or chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

import numpy as np

from trimix_edge.config import FusionWeights, Role, SamplingParams
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.feed import Feed
from trimix_edge.decoding.sequence import Sequence as TokenSequence
from trimix_edge.decoding.trio import Trio
from trimix_edge.errors import UsageError
from trimix_edge.fusion.linear import LinearFusion
from trimix_edge.llama import Sampler
from trimix_edge.trimix import TriMix

ParallelProgress = Callable[[str, int, int], None]
"""Called with the name of a case, the runs that are done, and all of them."""


@dataclass
class ParallelCase:
    """One model alone, or the fusion, with so many sequences.

    Attributes:
        seconds: of a step in which each sequence gets a token, turn by turn.
        bare: of the bare decodes of such a step, turn by turn.
    """

    name: str
    weights: FusionWeights
    n: int
    seconds: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Tokens a second of all sequences together."""
        return self.n / median(self.seconds)

    @property
    def each(self) -> float:
        return self.total / self.n

    @property
    def of_possible(self) -> float:
        """The part of what bare batches would give."""
        pairs = zip(self.bare, self.seconds, strict=True)
        return median(bare / whole for bare, whole in pairs)

    def times(self, one: ParallelCase) -> float:
        """The total over that of one sequence, the median over turns."""
        pairs = zip(one.seconds, self.seconds, strict=True)
        return self.n * median(alone / together for alone, together in pairs)


def run_parallel(
    trimix: TriMix,
    sizes: Sequence[int],
    *,
    n_prompt: int = 8,
    n_generate: int = 8,
    n_runs: int = 5,
    on_progress: ParallelProgress | None = None,
) -> list[ParallelCase]:
    """Measure a loaded trio.

    Args:
        sizes: numbers of sequences, from 1 to ``n_parallel``.
        n_prompt: tokens that each sequence has read before.
        n_generate: steps of a turn.

    Raises:
        UsageError: more sequences than the trio was loaded for.
    """
    if not sizes or not 1 <= min(sizes) <= max(sizes) <= trimix.n_parallel:
        raise UsageError(f"parallel: {list(sizes)} must be from 1 to {trimix.n_parallel}")
    trio, roles = trimix.trio, trimix.roles
    weights = {f"{role} alone": FusionWeights.single(role) for role in roles}
    if len(roles) > 1:
        fused = FusionWeights(0.3, 0.9) if Role.SMALL_BASE in roles else FusionWeights(0.1, 0.9)
        own = trimix.manifest.weights
        is_own = isinstance(own, FusionWeights) and set(own.roles) <= set(roles)
        weights["fused"] = own if is_own and isinstance(own, FusionWeights) else fused
    cases = [ParallelCase(name, pair, n) for name, pair in weights.items() for n in sizes]
    engine = Engine(trio, _never, trio.n_vocab)
    for turn in range(n_runs + 1):  # the first one warms up
        for i, case in enumerate(cases):
            if on_progress is not None:
                on_progress(
                    f"{case.name}, {case.n}", turn * len(cases) + i, len(cases) * (n_runs + 1)
                )
            seconds = _step_seconds(trio, engine, case, n_prompt, n_generate)
            bare = _bare_seconds(trio, case.weights.roles, case.n, n_prompt, n_generate)
            if turn:
                case.seconds.append(seconds)
                case.bare.append(bare)
    return cases


def _prompts(trio: Trio, n: int, n_prompt: int) -> list[list[int]]:
    ids = np.random.default_rng(n).integers(0, min(trio.n_vocab, 256), (n, n_prompt))
    return [[int(token) for token in row] for row in ids]


def _step_seconds(
    trio: Trio, engine: Engine, case: ParallelCase, n_prompt: int, n_generate: int
) -> float:
    rule = LinearFusion(case.weights, trio.n_vocab)
    params = SamplingParams()
    sequences = [
        TokenSequence(
            prompt,
            rule,
            Sampler(trio.vocab, trio.n_vocab, params),
            ignore_end=True,
            reuse=False,
        )
        for prompt in _prompts(trio, case.n, n_prompt)
    ]
    for sequence in sequences:
        engine.add(sequence)
    while not all(sequence.generated for sequence in sequences):
        engine.step()
    start = perf_counter()
    for _ in range(n_generate):
        engine.step()
    seconds = perf_counter() - start
    for sequence in sequences:
        engine.cancel(sequence)
    engine.remove_cancelled()
    return seconds / n_generate


def _bare_seconds(
    trio: Trio, roles: Collection[Role], n: int, n_prompt: int, n_generate: int
) -> float:
    """Seconds of one token for each of ``n`` sequences, in the models alone."""
    for seq, prompt in enumerate(_prompts(trio, n, n_prompt)):
        trio.begin(seq, roles, seq, 0)
        for at in range(0, n_prompt, trio.n_batch):
            trio.decode([Feed(seq, prompt[at : at + trio.n_batch], 0, roles)])
    start = perf_counter()
    for _ in range(n_generate):
        trio.decode([Feed(seq, [65], 1, roles) for seq in range(n)])
    return (perf_counter() - start) / n_generate


def _never(token: int) -> bool:
    return False
