"""Speculative decoding on scripted models: what is emitted, what it costs, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import FakeModels, FirstChoice, Row
from hypothesis import given, settings
from hypothesis import strategies as st

from trimix_edge.config import Draft, FusionWeights, Role
from trimix_edge.decoding import drafting
from trimix_edge.decoding.bandit import EpsilonGreedy
from trimix_edge.decoding.drafting import ARMS, DRAFTER, NgramIndex
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.sequence import Sequence
from trimix_edge.fusion.linear import LinearFusion

N_VOCAB, END = 24, 23
PROMPT = [3, 1, 4, 1, 5]
TWO = FusionWeights(0.5, 0.5)
THREE = FusionWeights(0.6, 0.5)


def is_end(token: int) -> bool:
    return token == END


def winding(sequence: list[int]) -> int:
    """A next token that depends on every token before it."""
    number = 0
    for token in sequence:
        number = (7 * number + token + 1) % 1009
    return number % END


def circling(sequence: list[int]) -> int:
    """A text that goes round in sevens."""
    return (sequence[-1] + 1) % 7


@dataclass(frozen=True)
class Script:
    """All models but the drafter know what comes next, and have the last word.

    Attributes:
        is_right: whether the drafter knows it too, after so many tokens.
        n_end: the text ends when it has so many tokens.
    """

    is_right: Callable[[int], bool]
    text: Callable[[list[int]], int] = winding
    n_end: int = 10**9

    def __call__(self, role: Role, sequence: list[int]) -> Row:
        token = END if len(sequence) + 1 >= self.n_end else self.text(sequence)
        row = np.zeros(N_VOCAB, np.float32)
        if role is DRAFTER:
            row[token if self.is_right(len(sequence)) else (token + 5) % END] = 9.0
        elif role is Role.LARGE_INS:
            row[token] = 40.0
        return row


ALWAYS, NEVER = Script(lambda n: True), Script(lambda n: False)


class Models(FakeModels):
    @property
    def max_rows(self) -> int:
        return 16


def generate(
    script: Script,
    draft: Draft | None,
    max_tokens: int | None = 20,
    *,
    weights: FusionWeights = TWO,
    n_ctx: int = 64,
    models: Models | None = None,
    engine: Engine | None = None,
) -> tuple[Sequence, Models]:
    models = models or Models(script, n_ctx=n_ctx, n_batch=16)
    rule = LinearFusion(weights, N_VOCAB)
    sequence = Sequence(list(PROMPT), rule, FirstChoice(), max_tokens, draft or Draft(0))
    engine = engine or Engine(models, is_end, N_VOCAB)
    engine.add(sequence)
    while not engine.is_idle:
        engine.step()
    return sequence, models


@settings(deadline=None, max_examples=150)
@given(
    script=st.lists(st.booleans(), min_size=1, max_size=12),
    text=st.sampled_from([winding, circling]),
    draft=st.builds(
        Draft, st.none() | st.integers(1, 7), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()
    ),
    n_ctx=st.integers(7, 50),
    n_end=st.integers(6, 50),
    max_tokens=st.none() | st.integers(0, 40),
    weights=st.sampled_from([TWO, THREE]),
)
def test_drafting_emits_what_plain_decoding_emits(
    script: list[bool],
    text: Callable[[list[int]], int],
    draft: Draft,
    n_ctx: int,
    n_end: int,
    max_tokens: int | None,
    weights: FusionWeights,
) -> None:
    models = Script(lambda n: script[n % len(script)], text, n_end)
    plain, _ = generate(models, None, max_tokens, weights=weights, n_ctx=n_ctx)
    drafted, _ = generate(models, draft, max_tokens, weights=weights, n_ctx=n_ctx)
    assert drafted.generated == plain.generated
    assert drafted.finish_reason == plain.finish_reason
    assert drafted.drafted.accepted <= drafted.drafted.drafted


@pytest.mark.parametrize("n", [1, 3, 7])
def test_a_drafter_that_is_always_right_fills_every_round(n: int) -> None:
    sequence, _ = generate(ALWAYS, Draft(n, ngrams=False), 1 + 3 * (n + 1))
    counts = sequence.drafted
    assert (counts.rounds, counts.drafted, counts.accepted) == (3, 3 * n, 3 * n)


def test_a_drafter_that_is_never_right_costs_rounds_and_no_tokens() -> None:
    sequence, _ = generate(NEVER, Draft(3, ngrams=False), 6)
    assert sequence.drafted.accepted == 0
    assert len(sequence.generated) == 6


def test_the_others_see_one_batch_a_round_and_the_drafter_single_tokens() -> None:
    _, models = generate(ALWAYS, Draft(3, ngrams=False), 5)
    after = [call[0] for call in models.calls[1:]]
    assert [len(feed.tokens) for feed in after] == [1, 1, 1, 1, 4]
    assert [set(feed.roles) == {DRAFTER} for feed in after] == [True] * 4 + [False]


def test_all_models_are_in_step_again_after_each_round() -> None:
    models = Models(Script(lambda n: n % 3 != 0), n_batch=16)
    engine = Engine(models, is_end, N_VOCAB)
    rule = LinearFusion(THREE, N_VOCAB)
    sequence = Sequence(list(PROMPT), rule, FirstChoice(), 20, Draft(3))
    engine.add(sequence)
    while not engine.is_idle:
        engine.step()
        held = models.in_step(0, THREE.roles)
        expected = [*PROMPT, *sequence.generated[:-1]]
        assert held[: len(expected)] == expected
        assert len(held) == len(expected) or engine.is_idle


def test_drafting_stops_where_the_drafter_is_unsure() -> None:
    def unsure(role: Role, sequence: list[int]) -> Row:
        row = ALWAYS(role, sequence)
        return row * np.float32(0.1) if role is DRAFTER and len(sequence) % 4 == 0 else row

    models = Models(unsure, n_batch=16)
    sequence, _ = generate(ALWAYS, Draft(7, p_min=0.9, ngrams=False), 12, models=models)
    assert sequence.drafted.drafted == sequence.drafted.accepted
    drafted = [len(call[0].tokens) - 1 for call in models.calls[1:] if DRAFTER not in call[0].roles]
    assert max(drafted) == 3, "every fourth token is unsure"


@pytest.mark.parametrize("weights", [FusionWeights(1, 0), FusionWeights(0, 1)], ids=str)
def test_one_model_drafts_nothing_but_what_it_looks_up(weights: FusionWeights) -> None:
    assert generate(ALWAYS, Draft(3), weights=weights)[0].drafted.drafted == 0
    repeating = Script(lambda n: True, circling)
    sequence, models = generate(repeating, Draft(3), weights=weights)
    assert sequence.drafted.accepted == sequence.drafted.from_ngrams > 0
    assert max(len(call[0].tokens) for call in models.calls[1:]) == 4


def test_text_that_repeats_itself_is_looked_up_and_verified_by_all_in_one_batch() -> None:
    sequence, models = generate(Script(lambda n: False, circling), Draft(3), 30)
    assert sequence.drafted.from_ngrams == sequence.drafted.accepted > 0
    last = models.calls[-1][0]
    assert set(last.roles) == set(TWO.roles)


def test_an_ngram_does_not_find_itself() -> None:
    index = NgramIndex([1, 2, 3, 4])
    assert index.follow(3) == []
    index.extend([1, 2, 3])
    assert index.follow(3) == [4, 1, 2]
    assert index.follow(1) == [4]


def test_several_sequences_draft_nothing() -> None:
    models = Models(ALWAYS, n_batch=16, n_parallel=2)
    engine = Engine(models, is_end, N_VOCAB)
    rule = LinearFusion(TWO, N_VOCAB)
    both = [Sequence([n, 2], rule, FirstChoice(), 8, Draft(3)) for n in range(2)]
    for sequence in both:
        engine.add(sequence)
    while not engine.is_idle:
        engine.step()
    assert [sequence.drafted.drafted for sequence in both] == [0, 0]


Costs = st.tuples(*(st.floats(0.2, 30) for _ in ARMS))


def play(policy: EpsilonGreedy, rates: dict[int, float], n_tokens: int) -> float:
    """Seconds that the policy takes for so many tokens, where an arm makes ``rates`` a second."""
    tokens, seconds = 0.0, 0.0
    while tokens < n_tokens:
        arm = policy.choose()
        policy.learn(arm, arm + 1, (arm + 1) / rates[arm])
        tokens, seconds = tokens + arm + 1, seconds + (arm + 1) / rates[arm]
    return seconds


@settings(deadline=None)
@given(rates=Costs)
def test_the_policy_comes_to_the_fastest_length(rates: tuple[float, ...]) -> None:
    table = dict(zip(ARMS, rates, strict=True))
    policy = EpsilonGreedy(ARMS)
    play(policy, table, 400)
    assert table[policy.best] >= 0.999 * max(rates)


@settings(deadline=None)
@given(rates=Costs)
def test_what_trials_lose_is_bounded_by_epsilon_and_one_round_of_each(
    rates: tuple[float, ...],
) -> None:
    table = dict(zip(ARMS, rates, strict=True))
    n_tokens = 3000
    seconds = play(EpsilonGreedy(ARMS), table, n_tokens)
    first = sum((arm + 1) / rate for arm, rate in table.items())
    longest = max((arm + 1) / rate for arm, rate in table.items())
    plain = EpsilonGreedy.N_DEFAULT / table[0]
    ideal = n_tokens / max(rates)
    assert seconds <= ideal * (1 + EpsilonGreedy.EPSILON) + first + plain + 2 * longest + 1e-6


def test_the_policy_follows_a_change() -> None:
    policy = EpsilonGreedy(ARMS)
    slow = dict.fromkeys(ARMS, 1.0)
    play(policy, {**slow, 7: 3.0}, 500)
    assert policy.best == 7
    play(policy, {**slow, 0: 3.0}, 20_000)
    assert policy.best == 0


def test_auto_drafts_where_a_batch_is_cheap_and_not_where_it_is_dear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shares(price: Callable[[Role, int], float]) -> dict[int, int]:
        models = Models(ALWAYS, n_ctx=2000, n_batch=16, price=price)
        monkeypatch.setattr(drafting, "perf_counter", lambda: models.clock)
        engine = Engine(models, is_end, N_VOCAB)
        generate(ALWAYS, Draft(ngrams=False), 600, models=models, engine=engine)
        arms = engine.drafting.policy(TWO.roles).arms
        return {n: arm.n_rounds for n, arm in arms.items()}

    cheap = shares(lambda role, n: 0.1 if role is DRAFTER else 1.0)
    assert max(cheap, key=lambda n: cheap[n] * (n + 1)) == 15
    dear = shares(lambda role, n: float(n) if n == 1 else 1.5 * n)
    assert dear[0] > 500


def test_a_stall_of_the_machine_changes_no_choice() -> None:
    policy = EpsilonGreedy(ARMS)
    table = {0: 1.0, 3: 0.8, 7: 0.7, 15: 0.6}
    play(policy, table, 400)
    for _ in range(3):
        policy.learn(0, 1, 300.0)
    assert policy.best == 0
