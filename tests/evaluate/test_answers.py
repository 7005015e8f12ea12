"""What untidy outputs answer: under the judge that reads as a person would, and the paper's."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge.evaluate.answers import as_label, as_letter, first_line
from trimix_edge.evaluate.metrics import Answered, is_correct
from trimix_edge.evaluate.numbers import last_number


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("B", "B"),
        (" B \nC", "B"),
        ("\nB", "B"),
        ("\n\n  B\r\nC", "B"),
        ("B<|im_end|>", "B"),
        ("<|endoftext|>\nB", ""),
        ("དེབ</s>", "དེབ"),
        ("<end_of_turn>", ""),
        ("x < y > z", "x < y > z"),
        ("\n \n", ""),
    ],
)
def test_an_answer_is_the_first_line_after_stripping(output: str, answer: str) -> None:
    assert first_line(output) == answer


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(C)", "C"),
        ("(c) water", "C"),
        ("Ｂ", "B"),
        ("**B**", "B"),
        ("The answer is D", "D"),
        ("the answer is (b)", "B"),
        ("答案是C。", "C"),
        ("བ B།", "B"),
        ("B དེབ", "B"),
        ("A", "A"),
        ("a", "A"),
        ("A.", "A"),
        ("A) a good answer", "A"),
        ("A is right", "A"),
        ("A good answer is B", "B"),
        ("A good answer", None),
        ("It is a good answer", None),
        ("It is a good one: C", "C"),
        ("A: a good answer is B", "A"),
        ("It is A good idea", None),
        ("Option A is wrong, so the answer is B", "B"),
        ("答案是B，选项C错误", "B"),
        ("I would say that it is C", "C"),
        ("I think B", "B"),
        ("ANSWER: B", "B"),
        ("vitamin B12", None),
        ("D'accord", None),
        ("Beta", None),
        ("E", None),
        ("", None),
    ],
)
def test_the_letter_of_an_answer(answer: str, letter: str | None) -> None:
    assert as_letter(answer, 4) == letter


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Sport", "sport"),
        ("  SPORT. ", "sport"),
        ("science/technology", "science/technology"),
        ("«Spo  rt»", "spo rt"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("体育。", "体育"),
        ("སློབ་གྲྭ།", "སློབ་གྲྭ"),
    ],
)
def test_the_label_of_an_answer(answer: str, label: str) -> None:
    assert as_label(answer) == label


NUMBERS = {
    "The answer is 12.": "12",
    "3 + 4 = 7": "7",
    "12 or 13": "13",
    "x = -5": "-5",
    "x = −5": "-5",
    "7-5": "5",
    "12.50": "12.5",
    ".5": "0.5",
    "-.5": "-0.5",
    "1e3": "1000",
    "1.5E-3": "0.0015",
    "2,5e3": "2500",
    "1.5×10^3": "1500",
    "1.5 × 10³": "1500",
    "10²": "100",
    "10^-2": "0.01",
    "12,5": "12.5",
    "1234,567": "1234.567",
    "0,125": "0.125",
    "1,2": "1.2",
    "1,234,567 metres": "1234567",
    "1,234.5": "1234.5",
    "1.234,5": "1234.5",
    "1.234.567": "1234567",
    "1.234": "1.234",
    "1 234": "1234",
    "1\u00a0234": "1234",
    "1\u202f234\u202f567,8": "1234567.8",
    "1\u2009234": "1234",
    "1'234.5": "1234.5",
    "1’234": "1234",
    "12,34,567": "1234567",
    "in 2020 300 people": "300",
    "1,2,3": "3",
    "1.2.3": "3",
    "3, 5": "5",
    "༡༢": "12",
    "༡༢,༥": "12.5",
    "١٢٫٥": "12.5",
    "١٬٢٣٤": "1234",
    "١٬٢٣٤٫٥": "1234.5",
    "١٢،٥": "12.5",
    "১২.৫": "12.5",
    "௧௨": "12",
    "１２": "12",
    "１，２３４．５": "1234.5",
    "᠑᠒": "12",
    "᠑᠂᠒᠓": "1.23",
}


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_is_read_as_people_write_it(text: str) -> None:
    assert last_number(text) == {Decimal(NUMBERS[text])}


@pytest.mark.parametrize("text", ["1,234", "১,২৩৪", "１，２３４"])
def test_one_comma_before_three_digits_has_both_readings(text: str) -> None:
    assert last_number(text) == {Decimal(1234), Decimal("1.234")}


@pytest.mark.parametrize("text", ["none", "", "9" * 500, "1e99999", "1e999999999999", "-"])
def test_what_is_no_number_has_no_reading(text: str) -> None:
    assert not last_number(text)


@pytest.mark.parametrize(
    ("output", "reference", "right"),
    [
        ("12,5", "7,5", False),
        ("1 234", "999 234", False),
        ("1\u202f234", "234", False),
        ("0.5", ".5", True),
        ("1000", "1e3", True),
        ("1,234", "1234", True),
        ("1,234", "1.234", True),
        ("1234", "1,234", True),
        ("1,234", "234", False),
        ("so 3.0", "3", True),
        ("༡༢", "12", True),
        ("no idea", "3", False),
        ("5", "-5", False),
    ],
)
def test_numbers_are_equal_if_they_share_a_reading(
    output: str, reference: str, right: bool
) -> None:
    assert is_correct("number", Answered(output, reference)) is right


@given(st.integers(-(10**9), 10**9), st.text("abc བཀ", max_size=8))
def test_any_whole_number_is_read_back_after_any_words(number: int, words: str) -> None:
    assert last_number(f"{words} {number}") == {number}
    for sign in ",' \u202f":
        grouped = f"{number:,}".replace(",", sign)
        assert number in last_number(f"{words}: {grouped}.")


@given(st.integers(0, 10**9), st.sampled_from("༠٠۰০௦᠐０๐"))
def test_digits_of_any_script_are_the_same(number: int, zero: str) -> None:
    assert last_number("".join(chr(ord(zero) + int(digit)) for digit in str(number))) == {number}


@given(st.text(max_size=40))
def test_no_output_breaks_an_extractor(output: str) -> None:
    assert as_letter(output, 4) in (None, "A", "B", "C", "D")
    assert as_label(as_label(output)) == as_label(output)
    assert all(number.is_finite() for number in last_number(output))
    for judge in ("letter", "label", "number"):
        assert is_correct(judge, Answered(output, "1"), "paper") in (True, False)  # type: ignore[arg-type]


@given(st.text("0123456789.,' eE×10^³²-", max_size=20))
def test_any_run_of_signs_of_numbers_is_read_or_refused(text: str) -> None:
    readings = last_number(text)
    assert len(readings) <= 2
    assert all(reading.is_finite() for reading in readings)


PAPER = [
    # The first character, where it is one of A to E; else the whole answer.
    ("letter", "B. because", "B", True),
    ("letter", "A good answer is B", "A", True),
    ("letter", "A good answer is B", "B", False),
    ("letter", "Beta", "B", True),
    ("letter", "b", "B", False),
    ("letter", "(B)", "B", False),
    ("letter", "F", "F", True),
    ("letter", "F.", "F", False),
    ("letter", "\nB", "B", True),
    ("letter", "", "B", False),
    # The label in lower case, and nothing more.
    ("label", "SPORT", "Sport", True),
    ("label", "Sport.", "Sport", False),
    ("label", "Straße", "STRASSE", False),
    # Commas and one full stop at the end are removed; the last number, as a float.
    ("number", "The answer is 1,234.", "1234", True),
    ("number", "12,5", "125", True),
    ("number", "12,5", "12.5", False),
    ("number", "1 234", "234", True),
    ("number", "so 3.0", "3", True),
    ("number", ".5", "5", True),
    ("number", "1e3", "3", True),
    ("number", "-5", "5", True),
    ("number", "-5", "-5", False),
    ("number", "no idea", "-1", True),
    ("number", "no idea", "3", False),
]


@pytest.mark.parametrize(("judge", "output", "reference", "right"), PAPER)
def test_the_paper_s_judge_is_that_of_its_code(
    judge: str, output: str, reference: str, right: bool
) -> None:
    assert is_correct(judge, Answered(output, reference, 4), "paper") is right  # type: ignore[arg-type]
