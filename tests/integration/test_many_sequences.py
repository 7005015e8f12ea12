"""Many sequences at once say what each says alone, from one thread or from sixteen."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import GREEDY_TRIO, WORDS

from trimix_edge import ContextParams, Generation, Role, TriMix
from trimix_edge.errors import UsageError

N_GROUPS, SIZE, N_TOKENS = 125, 8, 8
ROUNDING = 2e-3
"""Nats: batches of other sizes differ by less, with float32 keys and values."""

EXACT = ContextParams(n_ctx=192, kv_type="f32", n_threads=1)


@pytest.fixture(scope="module")
def many(tiny: dict[Role, Path]) -> Iterator[TriMix]:
    with TriMix.load(
        GREEDY_TRIO,
        models=tiny,
        roles=list(Role),
        context=EXACT,
        n_parallel=SIZE,
        weights=(0.4, 0.8),
    ) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def alone(tiny: dict[Role, Path]) -> Iterator[TriMix]:
    with TriMix.load(
        GREEDY_TRIO, models=tiny, roles=list(Role), context=EXACT, weights=(0.4, 0.8)
    ) as loaded:
        yield loaded


def random_prompts(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(n)]


def margin(generation: Generation, at: int) -> float:
    """Nats between the two likeliest tokens at a place."""
    assert generation.top is not None
    return generation.top[at][0][1] - generation.top[at][1][1]


def test_tokens_of_1000_prompts_in_groups_of_8_are_those_of_single_runs(
    many: TriMix, alone: TriMix
) -> None:
    differing: list[float] = []
    for group in range(N_GROUPS):
        prompts = random_prompts(SIZE, group)
        together = many.generate_all(prompts, max_tokens=N_TOKENS, logprobs=2, draft="off")
        for prompt, result in zip(prompts, together, strict=True):
            single = alone.generate(prompt, max_tokens=N_TOKENS, logprobs=2, draft="off")
            pairs = zip(single.token_ids, result.token_ids, strict=False)
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
            if at is None:
                assert result.token_ids == single.token_ids
                assert result.text == single.text
            else:
                differing.append(max(margin(single, at), margin(result, at)))
    worst = max(differing, default=0.0)
    told = f"{len(differing)} of {N_GROUPS * SIZE} differ, margins up to {worst:.2g} nats"
    assert worst < ROUNDING, told
    assert len(differing) < N_GROUPS * SIZE // 100, told


SETTINGS: list[dict[str, object]] = [
    {"rule": "saf"},
    {"rule": "proxy"},
    {"rule": "single:small_base"},
    {"weights": "auto"},
    {"weights": "entropy"},
    {"plausibility": "small_cpt:0.2"},
    {"temperature": 0.8, "seed": 3},
    {"grammar": "root ::= [a-z ]{4,9}"},
    {"stop": "e"},
    {"repeat_penalty": 1.3, "explain": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s))
def test_every_setting_works_the_same_with_eight(
    many: TriMix, alone: TriMix, settings: dict[str, object]
) -> None:
    prompts = random_prompts(SIZE, 7)
    options = {"max_tokens": 10, "logprobs": 2, "draft": "off", **settings}
    together = many.generate_all(prompts, **options)  # type: ignore[arg-type]
    for prompt, result in zip(prompts, together, strict=True):
        single = alone.generate(prompt, **options)  # type: ignore[arg-type]
        pairs = zip(single.token_ids, result.token_ids, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if at is not None:  # a tie within rounding; the noise of a draw may have made it
            assert "temperature" in settings or margin(single, at) < ROUNDING
            continue
        assert (result.text, result.finish_reason) == (single.text, single.finish_reason)
        assert result.weights == single.weights
        np.testing.assert_allclose(result.logprobs, single.logprobs, atol=5e-3)
        for ours, theirs in zip(result.shares or [], single.shares or [], strict=True):
            for role in ours:
                assert ours[role] == pytest.approx(theirs[role], abs=0.05)


def test_sequences_with_different_rules_share_a_batch(many: TriMix, alone: TriMix) -> None:
    prompt = " save the file"
    runs = [many.submit(prompt, max_tokens=6, draft="off", **s) for s in SETTINGS[:4]]  # type: ignore[arg-type]
    while not many.is_idle:
        many.step()
    for run, settings in zip(runs, SETTINGS, strict=False):
        single = alone.generate(prompt, max_tokens=6, draft="off", **settings)  # type: ignore[arg-type]
        assert run.result().text == single.text


def test_a_shared_prefix_is_evaluated_once(many: TriMix) -> None:
    many.forget()
    common = "".join(WORDS[:20])
    results = many.generate_all([common + word for word in WORDS[20:28]], max_tokens=2)
    n_shared = min(result.n_kept for result in results[1:])
    assert results[0].n_kept == 0
    assert n_shared >= len(many.tokenize(common)) - 1


def test_sixteen_threads_and_random_cancellations_mix_nothing_up(
    many: TriMix, alone: TriMix
) -> None:
    prompts = random_prompts(16, 99)
    expected = [alone.generate(p, max_tokens=12, draft="off").text for p in prompts]
    failures: list[str] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(6):
            i = rng.randrange(len(prompts))
            stream = many.stream(prompts[i], max_tokens=12, draft="off")
            n_taken = rng.choice([0, 1, 3, 99])
            text = ""
            for taken, chunk in enumerate(stream):
                text += chunk.text
                if taken >= n_taken:
                    break
            else:
                if text != expected[i]:
                    failures.append(f"{prompts[i]!r}: {text!r} instead of {expected[i]!r}")
            stream.close()
            if not expected[i].startswith(text):
                failures.append(f"{prompts[i]!r}: {text!r} is no beginning of {expected[i]!r}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures[:3]
    many.forget()
    assert many.is_idle
    assert len(many.engine.scheduler.free) == many.n_parallel, "no place is lost"
    assert all(not tokens for c in many.trio.contexts.values() for tokens in c.tokens)


def test_several_drafted_tokens_and_the_end_in_one_step_are_all_delivered(tiny: dict) -> None:
    """The last of them ends the sequence before the first one is handed on."""
    with TriMix.load(
        GREEDY_TRIO, models=tiny, roles=list(Role), context=EXACT, weights=(0.4, 0.8)
    ) as trimix:
        options = {"temperature": 0.0, "grammar": 'root ::= "a a a a a a a a a a a a"'}
        plain = trimix.generate(" a a", draft="off", **options)  # type: ignore[arg-type]
        run = trimix.submit(" a a", draft=7, **options)  # type: ignore[arg-type]
        chunks = []
        while not run.finished:
            chunks += [chunk for _, chunk in trimix.step()]
        assert "".join(chunk.text for chunk in chunks) == plain.text == run.result().text
        assert chunks[-1].finish_reason == plain.finish_reason == "end"
        assert run.result().draft.accepted > 0


def test_closing_ends_what_runs(tiny: dict) -> None:
    trimix = TriMix.load(GREEDY_TRIO, models=tiny, context=EXACT, weights=(0.1, 0.9), n_parallel=2)
    stream = trimix.stream("x", max_tokens=50)
    next(stream)
    trimix.close()
    with pytest.raises(UsageError, match="closed"):
        list(stream)


INTERRUPTED = """
import _thread, random, sys, threading, time
from pathlib import Path
from trimix_edge import ContextParams, TriMix

files = {path.stem: path for path in Path(sys.argv[1]).glob("*.gguf")}
context = ContextParams(n_ctx=192, kv_type="f32", n_threads=1)
rng = random.Random(0)
with TriMix.load(models=files, context=context, weights=(0.4, 0.8)) as trimix:
    ask = lambda: trimix.generate(
        " save the file" * 8, max_tokens=12, draft="off", temperature=0.0).text
    expected, caught = ask(), 0
    for _ in range(120):
        try:
            timer = threading.Timer(rng.uniform(0, 0.03), _thread.interrupt_main)
            timer.start()
            try:
                ask()
            finally:
                timer.cancel()
                timer.join()
            time.sleep(0)
        except KeyboardInterrupt:
            caught += 1
    try:
        time.sleep(0.1)
    except KeyboardInterrupt:
        pass
    assert ask() == expected, "something was lost"
    trimix.score("save the file")
    print(caught)
"""


def test_ctrl_c_at_any_moment_leaves_a_trio_that_works(tiny: dict[Role, Path]) -> None:
    folder = next(iter(tiny.values())).parent
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, folder], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


def test_a_turn_that_ctrl_c_has_left_behind_is_taken_over(alone: TriMix) -> None:
    """It can come between taking a turn and the step, where no block ends the turn."""
    alone._loop._owner = threading.get_ident()
    assert alone.generate(" save the file", max_tokens=2).token_ids


def test_a_callback_that_would_wait_for_itself_is_told(alone: TriMix) -> None:
    def again(done: int, total: int) -> None:
        alone.generate("x", max_tokens=1)

    with pytest.raises(UsageError, match="callback"):
        alone.generate(" save the file", max_tokens=2, on_progress=again)
    assert alone.generate(" save", max_tokens=2).token_ids
