"""Speculative decoding on scripted models: what is emitted, what it costs, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import Clock, FakeModels, FirstChoice, Row
from hypothesis import given, settings
from hypothesis import strategies as st

from trimix_edge.config import Draft, FusionWeights, Role
from trimix_edge.decoding.batch_costs import BatchCosts
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.experience import DRAFTER, Experience, Prices, Trial
from trimix_edge.decoding.sequence import Sequence
from trimix_edge.decoding.speculative import Speculation
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
class Trio:
    """A script: all models but the drafter know what comes next, and have the last word.

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
            row[token if self.is_right(len(sequence)) else (token + 5) % END] = 6.0
        elif role is Role.LARGE_INS:
            row[token] = 20.0
        return row


ALWAYS, NEVER = Trio(lambda n: True), Trio(lambda n: False)


@dataclass
class Run:
    """One generation, and all that it was made with."""

    models: FakeModels
    draft: Draft | None
    weights: FusionWeights = TWO
    look_up: bool = False

    def __post_init__(self) -> None:
        self.experience = Experience()
        self.sampler = FirstChoice()
        self.sequence = Sequence(list(PROMPT))

    def speculation(self) -> Speculation | None:
        if self.draft is None:
            return None
        return Speculation(
            self.models, self.sampler, is_end, N_VOCAB, self.draft, self.experience,
            look_up=self.look_up,
        )  # fmt: skip

    def engine(self) -> Engine:
        rule = LinearFusion(self.weights, N_VOCAB)
        return Engine(self.models, rule, self.sampler, is_end, lookahead=self.speculation())

    def tokens(self, max_tokens: int | None = None) -> list[int]:
        return [token.id for token in self.engine().generate(self.sequence, max_tokens)]


def plainly(script: Trio, n_ctx: int, max_tokens: int | None, weights: FusionWeights) -> Run:
    run = Run(FakeModels(script, n_ctx=n_ctx), None, weights)
    run.tokens(max_tokens)
    return run


@settings(deadline=None, max_examples=150)
@given(
    script=st.lists(st.booleans(), min_size=1, max_size=12),
    text=st.sampled_from([winding, circling]),
    n_draft=st.integers(1, 7),
    n_ctx=st.integers(7, 50),
    n_end=st.integers(6, 50),
    max_tokens=st.none() | st.integers(0, 40),
    weights=st.sampled_from([TWO, THREE]),
    look_up=st.booleans(),
)
def test_drafting_emits_what_plain_decoding_emits(
    script: list[bool],
    text: Callable[[list[int]], int],
    n_draft: int,
    n_ctx: int,
    n_end: int,
    max_tokens: int | None,
    weights: FusionWeights,
    look_up: bool,
) -> None:
    trio = Trio(lambda n: script[n % len(script)], text, n_end)
    plain = plainly(trio, n_ctx, max_tokens, weights)
    run = Run(FakeModels(trio, n_ctx=n_ctx), Draft(n_draft), weights, look_up)
    run.tokens(max_tokens)
    assert run.sequence.generated == plain.sequence.generated
    assert run.sequence.finish_reason == plain.sequence.finish_reason
    assert run.sampler.accepted == plain.sampler.accepted
    counts = run.sequence.draft
    assert counts.accepted <= min(counts.drafted, len(run.sequence.generated))
    assert counts.looked_up <= counts.drafted <= n_draft * counts.rounds
    assert counts.rounds <= counts.drafted, "a round without a guess is no round"
    assert all(clone.closed for clone in run.sampler.clones)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_a_drafter_that_is_always_right_fills_every_round(n: int) -> None:
    run = Run(FakeModels(ALWAYS), Draft(n))
    run.tokens(1 + 3 * (n + 1))
    counts = run.sequence.draft
    assert (counts.rounds, counts.drafted, counts.accepted) == (3, 3 * n, 3 * n)
    assert counts.looked_up == 0


def test_a_drafter_that_is_never_right_costs_rounds_and_no_tokens() -> None:
    run = Run(FakeModels(NEVER), Draft(3))
    run.tokens(6)
    counts = run.sequence.draft
    # One token comes with the prompt; before the last one there is no room to guess.
    assert (counts.rounds, counts.drafted, counts.accepted) == (4, 3 + 3 + 2 + 1, 0)


def test_the_first_wrong_guess_ends_a_round() -> None:
    """With 5 tokens of prompt and one emitted, guesses after 6 and 7 are right, after 8 not."""
    run = Run(FakeModels(Trio(lambda n: n != 8)), Draft(4))
    stream = run.engine().generate(run.sequence, 30)
    for _ in range(4):  # the prompt's, two that were guessed, and the right one instead of a third
        next(stream)
    counts = run.sequence.draft
    assert (counts.rounds, counts.drafted, counts.accepted) == (1, 4, 2)


def test_the_other_models_see_one_batch_a_round_and_the_drafter_single_tokens() -> None:
    run = Run(FakeModels(ALWAYS), Draft(3), THREE)
    run.tokens(9)
    others = frozenset({Role.LARGE_INS, Role.SMALL_BASE})
    calls = [(call.roles, len(call.tokens), call.n_rows) for call in run.models.calls[1:]]
    assert calls == 2 * [*4 * [(frozenset({DRAFTER}), 1, 1)], (others, 4, 4)]


def test_all_models_are_in_step_again_after_each_round() -> None:
    run = Run(FakeModels(Trio(lambda n: n % 3 > 0)), Draft(5), THREE)
    lookahead = run.speculation()
    assert lookahead is not None
    seen: list[list[int]] = []

    class Witness:
        def advance(self, sequence: Sequence, limit: int) -> object:
            seen.append(list(run.models.sequence))  # refuses roles out of step
            assert seen[-1] == [*sequence.prompt, *sequence.generated][:-1]
            return lookahead.advance(sequence, limit)

        learn = lookahead.learn

    rule = LinearFusion(THREE, N_VOCAB)
    engine = Engine(run.models, rule, run.sampler, is_end, lookahead=Witness())  # type: ignore[arg-type]
    list(engine.generate(run.sequence, 25))
    assert len(seen) > 5


@pytest.mark.parametrize("n_end", range(7, 14))
def test_an_end_inside_a_draft_is_the_end_and_nothing_is_guessed_beyond_it(n_end: int) -> None:
    run = Run(FakeModels(Trio(lambda n: True, n_end=n_end)), Draft(7))
    run.tokens()
    assert run.sequence.finish_reason == "end"
    assert len(run.sequence) == n_end
    assert all(END not in call.tokens for call in run.models.calls)


@pytest.mark.parametrize("max_tokens", range(2, 10))
def test_no_token_is_guessed_that_could_not_be_emitted(max_tokens: int) -> None:
    run = Run(FakeModels(ALWAYS), Draft(7))
    assert len(run.tokens(max_tokens)) == max_tokens
    assert run.sequence.finish_reason == "length"
    assert len(run.models.sequence) == len(PROMPT) + max_tokens - 1


@pytest.mark.parametrize("n_ctx", range(7, 15))
def test_a_context_that_fills_up_inside_a_draft_ends_as_it_would_plainly(n_ctx: int) -> None:
    run = Run(FakeModels(ALWAYS, n_ctx=n_ctx), Draft(7))
    run.tokens()
    assert run.sequence.finish_reason == "context"
    assert len(run.sequence) == n_ctx


@pytest.mark.parametrize("n_taken", [1, 2, 4])
def test_a_consumer_may_stop_inside_a_draft(n_taken: int) -> None:
    run = Run(FakeModels(ALWAYS), Draft(4))
    stream = run.engine().generate(run.sequence, 30)
    taken = [next(stream).id for _ in range(n_taken)]
    stream.close()
    assert run.sequence.generated == taken
    assert run.sequence.draft.accepted == max(0, n_taken - 1)


@pytest.mark.parametrize(
    "weights",
    [FusionWeights(1, 0), FusionWeights(0, 1), FusionWeights(0.5, 0)],
    ids=["large_ins", "small_cpt", "no drafter"],
)
@pytest.mark.parametrize("draft", [Draft(3), Draft()], ids=str)
def test_nothing_is_drafted_without_a_drafter_or_without_others(
    weights: FusionWeights, draft: Draft
) -> None:
    run = Run(FakeModels(ALWAYS), draft, weights)
    run.experience = cheap_batches()
    assert len(run.tokens(12)) == 12
    assert run.sequence.draft.rounds == 0
    assert all(len(call.tokens) == 1 for call in run.models.calls[1:])


def test_phrases_that_come_again_are_looked_up_and_checked_in_one_batch() -> None:
    run = Run(FakeModels(Trio(lambda n: False, circling)), Draft(4), look_up=True)
    tokens = run.tokens(40)
    assert tokens == [(PROMPT[-1] + 1 + i) % 7 for i in range(40)]
    counts = run.sequence.draft
    assert counts.looked_up > 20
    assert counts.accepted >= counts.looked_up - 4
    together = [call for call in run.models.calls[1:] if len(call.tokens) > 1]
    assert any(call.roles == run.models.active for call in together)


def test_a_single_model_looks_up_as_well() -> None:
    run = Run(FakeModels(Trio(lambda n: True, circling)), Draft(4), FusionWeights(1, 0), True)
    run.tokens(30)
    assert run.sequence.draft.looked_up == run.sequence.draft.drafted > 15


def cheap_batches() -> Experience:
    """A machine on which a batch costs hardly more than a token."""
    return Experience(BatchCosts({role: {n: price(role, n) for n in (1, 2, 4)} for role in Role}))


def price(role: Role, n: int) -> float:
    return (0.1 if role is DRAFTER else 1.0) * (1.0 + 0.1 * (n - 1))


def dear(role: Role, n: int) -> float:
    """A machine on which batches are for nothing, and the drafter is as slow as the others."""
    return 1.0 * n


def timed(
    monkeypatch: pytest.MonkeyPatch,
    script: Trio,
    draft: Draft | None,
    cost: Callable[[Role, int], float],
    n_tokens: int,
) -> Run:
    """A generation by a clock that only the models move."""
    clock = Clock()
    monkeypatch.setattr("trimix_edge.decoding.speculative.perf_counter", clock)
    monkeypatch.setattr("trimix_edge.decoding.engine.perf_counter", clock)
    run = Run(FakeModels(script, n_ctx=2000, clock=clock, price=cost), draft)
    costs = {role: {n: cost(role, n) for n in (1, 2, 4)} for role in Role}
    run.experience = Experience(BatchCosts(costs))
    run.tokens(n_tokens)
    return run


def test_a_good_drafter_pays_off_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = timed(monkeypatch, ALWAYS, None, price, 200)
    auto = timed(monkeypatch, ALWAYS, Draft(), price, 200)
    assert auto.sequence.generated == plain.sequence.generated
    assert auto.models.clock.now < 0.5 * plain.models.clock.now
    assert auto.sequence.draft.accepted > 120


@pytest.mark.parametrize("script", [ALWAYS, NEVER], ids=["right", "wrong"])
def test_drafting_rests_where_it_loses(monkeypatch: pytest.MonkeyPatch, script: Trio) -> None:
    plain = timed(monkeypatch, script, None, dear, 400)
    auto = timed(monkeypatch, script, Draft(), dear, 400)
    assert auto.sequence.generated == plain.sequence.generated
    assert auto.models.clock.now < 1.03 * plain.models.clock.now


def test_drafting_stops_where_the_drafter_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = timed(monkeypatch, NEVER, Draft(), price, 600)
    assert auto.sequence.draft.rounds < 100
    assert auto.experience.drafted.mean < 0.5


def test_drafting_comes_back_when_the_drafter_is_right_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Trio(lambda n: n > 60)
    auto = timed(monkeypatch, script, Draft(), price, 900)
    assert auto.sequence.draft.accepted > 300


def test_a_second_generation_has_the_prices_of_its_own_roles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prices are read when the roles are known, not when the last generation's are still active."""
    run = timed(monkeypatch, ALWAYS, Draft(), price, 60)
    run.models.active = frozenset()
    run.sequence = Sequence(list(PROMPT))
    assert len(run.tokens(60)) == 60
    assert run.sequence.draft.accepted > 30


def test_auto_guesses_no_more_than_a_batch_has_rows_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = timed(monkeypatch, ALWAYS, Draft(), lambda role, n: 1.0, 100)
    sizes = {call.n_rows for call in run.models.calls}
    assert max(sizes) <= run.models.max_rows
    assert max(sizes) > 1


def test_guesses_that_were_looked_up_and_dropped_do_not_hide_the_drafters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two tokens of prompt come again, but looking up has proved to be useless."""
    clock = Clock()
    monkeypatch.setattr("trimix_edge.decoding.speculative.perf_counter", clock)
    monkeypatch.setattr("trimix_edge.decoding.engine.perf_counter", clock)
    models = FakeModels(Trio(lambda n: True, circling), clock=clock, price=price)
    run = Run(models, Draft(), look_up=True)
    run.experience = experience = cheap_batches()
    for kind in range(5):
        for _ in range(2000):
            experience.looked_up.learn(kind, False)
    experience.plain, experience.n_plain = 1.1, 100
    experience.drafting.sleep = experience.looking_up.sleep = 0
    run.tokens(50)
    assert run.sequence.draft.accepted > 30
    assert run.sequence.draft.looked_up == 0
    assert experience.drafted.mean > 0.95


def test_prices_are_those_of_the_active_roles() -> None:
    costs = BatchCosts({role: {1: 1.0 + i, 4: 10.0 + i} for i, role in enumerate(Role)})
    prices = Prices.of(costs, [Role.LARGE_INS, DRAFTER])
    assert prices.drafter == 2.0
    assert (prices.others[1], prices.others[3]) == (1.0, 10.0)
    assert (prices.everyone[1], prices.everyone[4]) == (3.0, 21.0)
    unknown = Prices.of(BatchCosts(), list(Role))
    assert unknown.drafter == unknown.everyone[5] == 0.0


def test_a_trial_that_loses_rests_longer_each_time_and_one_that_wins_does_not() -> None:
    trial = Trial(sleep=0)
    rests = []
    for _ in range(6):
        while trial.sleep == 0:
            trial.remember(1, 2.0, 1.0)
        rests.append(trial.sleep)
        while not trial.is_awake():
            pass
    assert rests == [64, 256, 1024, 4096, 4096, 4096]
    for _ in range(100):
        trial.remember(2, 1.0, 1.0)
        assert trial.is_awake()
    while trial.sleep == 0:
        trial.remember(1, 2.0, 1.0)
    assert trial.sleep == 64


def test_the_seconds_of_a_plain_token_follow_the_clock_and_shrug_off_a_stall() -> None:
    experience = Experience()
    experience.remember_plain(100.0)  # the first one builds llama.cpp's graphs
    for _ in range(30):
        experience.remember_plain(2.0)
    assert experience.plain == pytest.approx(2.0)
    experience.remember_plain(1000.0)
    assert experience.plain < 2.2
    for _ in range(200):
        experience.remember_plain(1.0)
    assert experience.plain == pytest.approx(1.0, rel=0.01)
