"""Scores: of texts that are not Latin, against the libraries', and out of untidy answers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF

from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate.answers import first_line
from trimix_edge.evaluate.metrics import (
    Answered,
    chrf_score,
    chrf_statistics,
    is_correct,
    mean_score,
    metric_of,
    rouge_statistics,
)
from trimix_edge.evaluate.words import UnicodeTokenizer

TEXTS = {
    "Tibetan": ("བོད་ཀྱི་ཡིག་གེ", "ང་ཚོ་སློབ་གྲྭར་འགྲོ།"),
    "Uyghur": ("مەن كىتاب ئوقۇيمەن", "بۈگۈن ھاۋا ياخشى"),
    "Mongolian": ("ᠪᠢ ᠨᠣᠮ ᠤᠩᠰᠢᠨᠠ", "ᠥᠨᠥᠳᠥᠷ ᠲᠡᠩᠷᠢ ᠰᠠᠶᠢᠨ"),
    "Kazakh": ("مەن كىتاپ وقيمىن", "بۇگىن اۋا رايى جاقسى"),
    "Dzongkha": ("རྫོང་ཁའི་སྐད་ཡིག", "ང་ཁྱིམ་ནང་འགྱོ་ནི།"),
    "Chinese": ("今天天气很好", "我们去学校"),
}
LETTERS = "abཀཁབོདིུ་།كىتابᠨᠣᠮ书水 .,"
WORDS = st.text(LETTERS, max_size=12)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6)


def rouge(output: str, reference: str) -> float:
    return float(rouge_statistics([Answered(output, reference)])[0, 0])


@pytest.mark.parametrize("language", TEXTS)
def test_rouge_of_identical_texts_is_one(language: str) -> None:
    for text in TEXTS[language]:
        assert rouge(text, text) == 1


@pytest.mark.parametrize("language", TEXTS)
def test_rouge_of_disjoint_texts_is_zero(language: str) -> None:
    one, other = TEXTS[language]
    assert rouge(one, other) == 0


@pytest.mark.parametrize("language", TEXTS)
def test_rouge_of_half_a_text_is_between(language: str) -> None:
    one, other = TEXTS[language]
    assert 0 < rouge(f"{one} {other}", other) < 1


@pytest.mark.parametrize("language", ["Tibetan", "Uyghur", "Mongolian"])
def test_the_usual_tokenizer_of_rouge_would_see_nothing(language: str) -> None:
    text = TEXTS[language][0]
    assert RougeScorer(["rougeL"]).score(text, text)["rougeL"].fmeasure == 0


@given(st.text(max_size=30).filter(lambda text: first_line(text) != ""))
def test_rouge_of_any_line_with_itself_is_one(text: str) -> None:
    line = first_line(text)
    assert rouge(line, line) == pytest.approx(1)


@given(WORDS, WORDS)
def test_rouge_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0 <= rouge(one, other) <= 1
    # F of precision and recall: which side is the output makes no difference.
    assert rouge(one, other) == pytest.approx(rouge(other, one))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("བོད་ཡིག།", ["བོད", "ཡིག"]),
        ("كىتاب، سۇ", ["كىتاب", "سۇ"]),
        ("ᠨᠣᠮ\u180eᠠ ᠤᠰᠤ", ["ᠨᠣᠮ\u180eᠠ", "ᠤᠰᠤ"]),
        ("BOOK of 12", ["book", "of", "12"]),
        ("abc书水", ["abc", "书", "水"]),
        ("。！", ["。", "！"]),
        (" \n", []),
    ],
)
def test_words_are_what_readers_of_a_script_call_words(text: str, tokens: list[str]) -> None:
    assert UnicodeTokenizer().tokenize(text) == tokens


@settings(deadline=None)
@given(PAIRS)
def test_chrf_is_sacrebleus_corpus_score(pairs: list[tuple[str, str]]) -> None:
    items = [Answered(output, reference) for output, reference in pairs]
    outputs = [first_line(output) for output, _ in pairs]
    references = [[reference for _, reference in pairs]]
    theirs = CHRF(word_order=2, lowercase=True).corpus_score(outputs, references).score
    assert float(chrf_score(chrf_statistics(items).sum(axis=0))) == pytest.approx(theirs)


@pytest.mark.parametrize("language", TEXTS)
def test_chrf_of_identical_texts_is_a_hundred_and_of_disjoint_ones_less(language: str) -> None:
    one, other = TEXTS[language]
    same = chrf_statistics([Answered(one, one), Answered(other, other)]).sum(axis=0)
    assert float(chrf_score(same)) == pytest.approx(100)
    assert float(chrf_score(chrf_statistics([Answered(one, other)]).sum(axis=0))) < 20


def test_only_the_first_line_of_an_output_counts() -> None:
    statistics = chrf_statistics([Answered(" དེབ \nབཀའ", "དེབ"), Answered("དེབ", "དེབ")])
    assert np.array_equal(statistics[0], statistics[1])
    assert rouge("དེབ\nཆུ", "དེབ") == 1


@pytest.mark.parametrize(
    ("judge", "output", "reference", "right"),
    [
        ("letter", " B\n", "B", True),
        ("letter", "A", "B", False),
        ("label", "Travel", "travel", True),
        ("label", "Travelling", "travel", False),
        ("number", "so 3.0", "3", True),
        ("number", "no idea", "3", False),
    ],
)
def test_what_is_right(judge: str, output: str, reference: str, right: bool) -> None:
    item = Answered(output, reference, 4)
    assert is_correct(judge, item) is right  # type: ignore[arg-type]
    metric = metric_of(judge)  # type: ignore[arg-type]
    both = metric.statistics([item, Answered("", reference, 4)])
    assert float(metric.score(both.sum(axis=0))) == 50 * right


def test_a_mean_is_of_sums_times_a_hundred() -> None:
    assert mean_score(np.array([[3.0, 4.0], [0.0, 4.0]])).tolist() == [75.0, 0.0]


@pytest.mark.parametrize(
    ("judge", "module", "package"),
    [("chrf", "sacrebleu", "sacrebleu"), ("rouge_l", "rouge_score", "rouge-score")],
)
def test_a_library_that_is_missing_is_told_with_its_cure(
    judge: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EvaluationError, match=rf"^{package} is not installed: pip install"):
        metric_of(judge)  # type: ignore[arg-type]
