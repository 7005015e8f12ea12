"""llama.cpp's samplers over the fused row: its own chain, seeds, grammars and masks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from plain_llama import PlainLlama
from tiny_models import GREEDY_TRIO, N_VOCAB

from trimix_edge import ContextParams, FusionWeights, Plausibility, Role, SamplingParams, TriMix
from trimix_edge.errors import ContextOverflowError, DecodeError, GrammarError, UsageError
from trimix_edge.llama import Sampler

PROMPT = " save the file and open the window"
REPETITIVE = " save the file save the file save the"

SAMPLINGS = {
    "temperature": SamplingParams(temperature=1.5, top_k=0, top_p=1, min_p=0),
    "defaults": SamplingParams(temperature=0.8),
    "top_k": SamplingParams(temperature=2, top_k=5, top_p=1, min_p=0),
    "top_p": SamplingParams(temperature=2, top_k=0, top_p=0.5, min_p=0),
    "min_p": SamplingParams(temperature=2, top_k=0, top_p=1, min_p=0.2),
    "typical_p": SamplingParams(temperature=2, top_k=0, top_p=1, min_p=0, typical_p=0.4),
    "top_n_sigma": SamplingParams(temperature=2, top_k=0, top_p=1, min_p=0, top_n_sigma=1.0),
    "xtc": SamplingParams(temperature=1, xtc_probability=0.7, xtc_threshold=0.05),
    "repeat_penalty": SamplingParams(temperature=1, repeat_penalty=1.5),
    "repeat_all": SamplingParams(temperature=1, repeat_penalty=1.5, repeat_last_n=-1),
    "frequency": SamplingParams(temperature=1, frequency_penalty=1.0),
    "presence": SamplingParams(temperature=1, presence_penalty=1.0),
    "dry": SamplingParams(temperature=1, dry_multiplier=20.0, dry_allowed_length=1),
    "mirostat_1": SamplingParams(temperature=1.5, mirostat=1, mirostat_tau=3),
    "mirostat_2": SamplingParams(temperature=1.5, mirostat=2, mirostat_tau=3),
}
GREEDY = {
    "repeat_penalty": SamplingParams(repeat_penalty=1.8),
    "dry": SamplingParams(dry_multiplier=20.0, dry_allowed_length=1),
}


@pytest.fixture(scope="module")
def plain(tiny: dict[Role, Path]) -> Iterator[PlainLlama]:
    with PlainLlama(tiny[Role.LARGE_INS]) as plain:
        yield plain


@pytest.fixture(scope="module")
def single(tiny: dict[Role, Path]) -> Iterator[TriMix]:
    """``large_ins`` alone, with the KV cache of llama.cpp's default."""
    with TriMix.load(
        GREEDY_TRIO, models=tiny, weights=FusionWeights(1, 0), context=ContextParams(n_threads=1)
    ) as trimix:
        yield trimix


def seeded(sampling: SamplingParams, seed: int) -> SamplingParams:
    return replace(sampling, seed=seed)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_single_model_samples_what_llama_cpp_samples(
    single: TriMix, plain: PlainLlama, name: str
) -> None:
    for seed in range(3):
        sampling = seeded(SAMPLINGS[name], seed)
        for prompt in (PROMPT, REPETITIVE):
            result = single.generate(prompt, max_tokens=20, sampling=sampling)
            assert result.token_ids == plain.generate(result.prompt_token_ids, 20, sampling)


@pytest.mark.parametrize("name", GREEDY)
def test_penalties_act_on_the_argmax_as_in_llama_cpp(
    single: TriMix, plain: PlainLlama, name: str
) -> None:
    result = single.generate(REPETITIVE, max_tokens=40, sampling=GREEDY[name])
    assert result.token_ids == plain.generate(result.prompt_token_ids, 40, GREEDY[name])


@pytest.mark.parametrize("name", ["dry", "repeat_penalty", "frequency", "presence", "xtc"])
def test_each_switch_changes_something(single: TriMix, name: str) -> None:
    """Or the comparison with llama.cpp would pass with a switch that is not connected."""

    def tokens(sampling: SamplingParams) -> list[list[int]]:
        return [
            single.generate(p, max_tokens=30, sampling=seeded(sampling, seed)).token_ids
            for p in (REPETITIVE, PROMPT)
            for seed in range(4)
        ]

    with_it, without = tokens(SAMPLINGS[name]), tokens(SamplingParams(temperature=1))
    assert with_it != without


@pytest.mark.parametrize("name", SAMPLINGS)
def test_seed_reproducibility(trimix: TriMix, name: str) -> None:
    def tokens(seed: int) -> list[int]:
        sampling = seeded(SAMPLINGS[name], seed)
        return trimix.generate(PROMPT, max_tokens=20, sampling=sampling).token_ids

    assert tokens(1) == tokens(1)
    assert len({tuple(tokens(seed)) for seed in (1, 2, 2**32 - 2)}) > 1


def test_a_drawn_seed_is_told_and_repeats_the_generation(trimix: TriMix) -> None:
    sampling = SAMPLINGS["temperature"]
    first, second = (trimix.generate(PROMPT, max_tokens=20, sampling=sampling) for _ in range(2))
    assert first.seed != second.seed
    assert first.token_ids != second.token_ids
    again = trimix.generate(PROMPT, max_tokens=20, sampling=seeded(sampling, first.seed))
    assert again.token_ids == first.token_ids


@pytest.mark.parametrize("name", SAMPLINGS)
def test_no_sampler_ever_picks_a_masked_token(trimix: TriMix, name: str) -> None:
    chunks = list(
        trimix.stream(
            PROMPT,
            max_tokens=25,
            sampling=seeded(SAMPLINGS[name], 7),
            plausibility=Plausibility(Role.SMALL_CPT, 0.5),
            logprobs=True,
        )
    )
    assert all(np.isfinite(chunk.logprob) for chunk in chunks)


def test_temperature_of_zero_is_the_argmax(trimix: TriMix) -> None:
    bare = trimix.generate(PROMPT, max_tokens=20).token_ids
    chained = SamplingParams(repeat_penalty=1.0, frequency_penalty=1e-30)
    assert not chained.is_bare_argmax
    assert trimix.generate(PROMPT, max_tokens=20, sampling=chained).token_ids == bare


GRAMMARS = {
    "choice": ('root ::= "yes" | "no"', "yes|no"),
    "letters": ("root ::= [a-f]+", "[a-f]+"),
    "number": ('root ::= "-"? [0-9]+ ("." [0-9]+)?', r"-?[0-9]+(\.[0-9]*)?"),
    "dzongkha": ('root ::= ("རྫོང་ཁ" | "བོད་ཡིག") "།"', "(རྫོང་ཁ|བོད་ཡིག)།"),
    "rules": ('root ::= item item\nitem ::= [a-c] "," ws\nws ::= " "*', "([a-c], *){2}"),
}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("name", GRAMMARS)
def test_the_output_obeys_a_grammar(trimix: TriMix, name: str, temperature: float) -> None:
    grammar, pattern = GRAMMARS[name]
    sampling = SamplingParams(temperature=temperature, grammar=grammar, seed=3)
    result = trimix.generate(PROMPT, max_tokens=40, sampling=sampling)
    assert re.fullmatch(pattern, result.text)
    if name in ("choice", "dzongkha"):
        assert result.finish_reason == "end"


def test_a_grammar_that_the_mask_contradicts_is_told(trimix: TriMix) -> None:
    sampling = SamplingParams(grammar='root ::= "7"')
    mask = Plausibility(Role.SMALL_CPT, 1.0)
    with pytest.raises(DecodeError, match="no token"):
        trimix.generate(PROMPT, max_tokens=5, sampling=sampling, plausibility=mask)


@pytest.mark.parametrize(
    "grammar",
    [
        " \n",
        "root ::= [",
        'start ::= "a"',
        'root ::= "a',
        "root ::= b",
        "root ::= root",
        'root ::= "\0"',
    ],
)
def test_a_bad_grammar_is_one_line(
    trimix: TriMix, grammar: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GrammarError, match=r"^grammar: .+") as caught:
        trimix.generate(PROMPT, max_tokens=5, sampling=SamplingParams(grammar=grammar))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("grammar", ["root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "\ud800"])
def test_a_grammar_that_would_end_the_process_is_refused(trimix: TriMix, grammar: str) -> None:
    with pytest.raises(GrammarError, match=r"are open at once|not valid Unicode"):
        trimix.generate("a", sampling=SamplingParams(grammar=grammar))


def test_the_longest_window_takes_no_gigabytes(trimix: TriMix) -> None:
    before = psutil.Process().memory_info().vms
    long = SamplingParams(repeat_last_n=2**31 - 1, repeat_penalty=1.1)
    with Sampler(trimix.trio.vocab, trimix.trio.n_vocab, long):
        assert psutil.Process().memory_info().vms - before < 1 << 30


def test_nothing_finite_to_choose_from_is_told(trimix: TriMix) -> None:
    with (
        Sampler(trimix.trio.vocab, N_VOCAB) as sampler,
        pytest.raises(DecodeError, match="damaged"),
    ):
        sampler.choose(np.full(N_VOCAB, np.nan, np.float32), -1)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=0.8),
        SamplingParams(temperature=0.8, mirostat=1),
        SamplingParams(temperature=0.8, mirostat=2),
    ],
)
def test_a_grammar_of_banned_tokens_leaves_none(single: TriMix, sampling: SamplingParams) -> None:
    """llama.cpp would end the process where the grammar is told of a token that it forbids."""
    pieces = [single.token_bytes(token) for token in range(N_VOCAB)]
    ban = {token: -np.inf for token, piece in enumerate(pieces) if piece[:1] == b"q"}
    sampling = replace(sampling, grammar='root ::= "q"+', logit_bias=ban)
    with pytest.raises(DecodeError, match="grammar, mask and logit_bias leave no token"):
        single.generate(PROMPT, sampling=sampling, max_tokens=4, ignore_eos=True)


def test_impossible_tokens_change_nothing_among_the_others(single: TriMix) -> None:
    """typical-p is an entropy, and 0 times the logarithm of 0 is NaN in llama.cpp."""
    drawn = []
    for others in (-30.0, -np.inf):
        row = np.full(N_VOCAB, others, np.float32)
        row[20:25] = np.log([0.5, 0.2, 0.15, 0.1, 0.05])
        for seed in range(50):
            params = SamplingParams(
                temperature=1, typical_p=0.3, top_k=0, top_p=1, min_p=0, seed=seed
            )
            with Sampler(single.vocab, N_VOCAB, params) as sampler:
                drawn.append(sampler.choose(row, 20))
    assert drawn[:50] == drawn[50:]
    assert set(drawn) == {21, 22}


def test_a_bias_moves_a_token_and_names_a_real_one(single: TriMix) -> None:
    row = np.zeros(N_VOCAB, np.float32)
    row[7] = 1.0
    with Sampler(single.vocab, N_VOCAB, SamplingParams(logit_bias={9: 2.0})) as sampler:
        assert sampler.choose(row, 7) == 9
    assert row[9] == 0.0
    with pytest.raises(UsageError, match=f"token {2**32 + 9} is not in a vocabulary of {N_VOCAB}"):
        Sampler(single.vocab, N_VOCAB, SamplingParams(logit_bias={2**32 + 9: 2.0}))


def test_a_sampler_that_nobody_closes_is_freed(single: TriMix) -> None:
    def grown() -> int:
        before = psutil.Process().memory_info().rss
        for _ in range(100):
            with pytest.raises(ContextOverflowError):
                single.generate([5] * 10_000, dry_multiplier=0.8, dry_penalty_last_n=-1)
        return int(psutil.Process().memory_info().rss - before)

    grown()
    assert grown() < 20e6  # a sampler takes about half a megabyte
