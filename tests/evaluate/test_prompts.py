"""Prompts: every task is worded, a file may word it otherwise, and nothing in one is ever run."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_data import WORDS, write_json
from hypothesis import example, given
from hypothesis import strategies as st

from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate.data import load_cells
from trimix_edge.evaluate.prompts import Prompts, Template
from trimix_edge.evaluate.tasks import TASKS, Cell, Item, Selection

READING = Cell(
    task=TASKS["reading_comprehension"],
    language="bo",
    source="bo",
    target="bo",
    items=(Item("1", {"context": "ཆུ", "question": "རི"}, "B", ("དེབ", "ཁང་པ")),),
    exemplars=(Item("0", {"context": "{question}", "question": "{0}"}, "A", ("{letter}", "b")),),
)


def override(folder: Path, text: str) -> Path:
    path = folder / "templates.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_task_of_every_language_is_worded(data: Path, language: str) -> None:
    prompts = Prompts.load(language)
    cells = load_cells(Selection(data, shots=2, prompt_language=language))
    assert {cell.task.name for cell in cells} == {t.name for t in TASKS.values() if not t.like}
    for cell in cells:
        worded = prompts.of(cell)
        item = cell.items[0]
        prompt = worded.prompt(item, 2)
        for value in item.fields.values():
            assert value in prompt
        for exemplar in cell.exemplars:
            assert worded.answer(exemplar) in prompt
            assert (exemplar.cot or exemplar.reference) in worded.answer(exemplar)
        for label in cell.labels:
            assert label in prompt
        assert prompts.names[cell.language] in prompt


def test_a_prompt_is_exemplars_and_the_question_worded_alike() -> None:
    prompt = Prompts.load("en").of(READING).prompt(READING.items[0], 1)
    instruction = "Read the passage in Tibetan and choose the right answer to the question.\n"
    assert prompt == (
        f"{instruction}Passage: {{question}}\nQuestion: {{0}}\nA. {{letter}}\nB. b\nAnswer: A\n\n"
        f"{instruction}Passage: ཆུ\nQuestion: རི\nA. དེབ\nB. ཁང་པ\nAnswer:"
    )


def test_an_instruction_of_a_file_stands_before_the_exemplars_once(tmp_path: Path) -> None:
    path = override(
        tmp_path,
        '[en.reading_comprehension]\ninstruction = "Choose."\n'
        'item = "{question}"\nanswer = "={answer}"',
    )
    prompt = Prompts.load("en", path).of(READING).prompt(READING.items[0], 1)
    assert prompt == "Choose.\n\n{0}=A\n\nརི"


def test_a_task_without_wording_of_its_own_has_that_of_its_kin(tmp_path: Path) -> None:
    for name, kin in (("title_generation", "title_generation_200"),
                      ("translation_article", "translation_dialogue"),
                      ("text_classification_passage", "text_classification"),
                      ("text_classification_sentence", "text_classification")):  # fmt: skip
        assert Prompts.load("en").tasks[name] == Prompts.load("en").tasks[kin]
        path = override(tmp_path, f'[en.{kin}]\nanswer = "={{answer}}"\n[en.{name}]\nitem = "x"')
        parts = Prompts.load("en", path).tasks[name]
        assert (parts["item"].text, parts["answer"].text) == ("x", "={answer}")


def test_fewer_exemplars_are_the_first_ones(data: Path) -> None:
    cell = load_cells(Selection(data, tasks=("math",), languages=("bo",), shots=4))[0]
    worded = Prompts.load("en").of(cell)
    item = cell.items[0]
    prompts = [worded.prompt(item, shots) for shots in range(5)]
    for shots, prompt in enumerate(prompts):
        shown = [worded.answer(exemplar) in prompt for exemplar in cell.exemplars]
        assert shown == [True] * shots + [False] * (4 - shots)
        assert prompt.endswith(prompts[0].split("\n\n")[-1])


def test_prompts_of_a_cell_begin_alike(data: Path) -> None:
    for cell in load_cells(Selection(data, shots=2)):
        worded = Prompts.load("en").of(cell)
        shared = worded.prompt(cell.items[0], 2).rsplit("\n\n", 1)[0]
        assert all(worded.prompt(item, 2).startswith(shared) for item in cell.items)


def test_exemplars_begin_with_the_file_that_the_seed_says(data: Path) -> None:
    def ids(seed: int) -> list[str]:
        selection = Selection(data, tasks=("math",), languages=("ug",), shots=3, seed=seed)
        return [exemplar.id for exemplar in load_cells(selection)[0].exemplars]

    assert [ids(seed) for seed in range(4)] == [
        ["10", "11", "20"], ["20", "21", "30"], ["30", "31", "10"], ["10", "11", "20"],
    ]  # fmt: skip


def test_a_file_words_one_task_otherwise_and_leaves_the_rest(tmp_path: Path) -> None:
    path = override(
        tmp_path,
        '[en]\noption = "({letter}) {text}"\n[en.reading_comprehension]\nanswer = "={answer}"',
    )
    prompt = Prompts.load("en", path).of(READING).prompt(READING.items[0], 1)
    assert "(A) {letter}\n(B) b\nAnswer:=A\n\nRead the passage in Tibetan" in prompt


def test_a_file_brings_a_language_of_its_own(tmp_path: Path) -> None:
    path = override(
        tmp_path,
        '[bo]\nseparator = "།"\noption = "{letter}"\n[bo.languages]\nbo = "བོད་ཡིག"\n'
        '[bo.reading_comprehension]\ninstruction = "{language}"\n'
        'item = "{context}"\nanswer = "{answer}"',
    )
    assert Prompts.load("bo", path).of(READING).prompt(READING.items[0], 1) == "བོད་ཡིག།{question}A།ཆུ"


def test_braces_are_written_twice() -> None:
    template = Template.parse("{{{text}}}", ("text",), "x")
    assert template.fill({"text": "{text}"}) == "{{text}}"


@given(st.text("{}!:.[]0ab\n", max_size=12))
@example("{a:}")
def test_a_template_is_refused_or_filled_with_nothing_but_its_fields(text: str) -> None:
    try:
        template = Template.parse(text, ("a", "b"), "x")
    except EvaluationError:
        return
    spelt = text.replace("{a:}", "{a}").replace("{b:}", "{b}")  # an empty format is none
    spelt = spelt.replace("{a}", "1").replace("{b}", "2").replace("{{", "{").replace("}}", "}")
    if "{{{" not in text and "}}}" not in text:
        assert template.fill({"a": "1", "b": "2"}) == spelt


WRONG = {
    "unknown_field": ("{answer} {colour}", r"unknown field \{colour\}: it may use \{language\}"),
    "attribute": ("{answer.__class__}", r"unknown field \{answer\.__class__\}"),
    "index": ("{answer[0]}", r"unknown field \{answer\[0\]\}"),
    "number": ("{0}", r"unknown field \{0\}"),
    "nameless": ("{}", r"unknown field \{\}"),
    "conversion": ("{answer!r}", "without a format"),
    "form": ("{answer:>9999999999}", "without a format"),
    "nested": ("{answer:{language}}", "without a format"),
    "open": ("{answer", "write {{ for a brace"),
    "closed": ("answer}", "write {{ for a brace"),
    "of_another_task": ("{cot}", r"unknown field \{cot\}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_template_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    text, told = WRONG[name]
    path = override(tmp_path, f'[en.reading_comprehension]\nanswer = "{text}"')
    with pytest.raises(EvaluationError, match=told) as raised:
        Prompts.load("en", path)
    assert "en.reading_comprehension.answer" in str(raised.value)
    assert "\n" not in str(raised.value)


FILES = {
    "task": ('[en.translatoin]\nitem = "x"', "unknown key translatoin; known: .*translation"),
    "part": ('[en.math]\nquestion = "x"', "en.math .*unknown key question; known: instruction"),
    "no_text": ("[en.math]\nitem = 3", "template en.math.item .*must be a text, not 3"),
    "no_table": ("[en]\nmath = 3", "template en.math .*must be a table"),
    "names": ("[en.languages]\nbo = 3", "en.languages must be a table of texts"),
    "names_list": ("[en]\nlanguages = [1]", "en.languages must be a table of texts"),
    "language": ("en = 3", "no prompts are written in 'en'"),
    "not_toml": ("[en", "is not TOML"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_of_templates_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    text, told = FILES[name]
    with pytest.raises(EvaluationError, match=told) as raised:
        Prompts.load("en", override(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_or_not_utf8_is_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="No such file"):
        Prompts.load("en", tmp_path / "missing.toml")
    (tmp_path / "latin").write_bytes(b"[en]\n# \xe9")
    with pytest.raises(EvaluationError, match="is not UTF-8: byte 7"):
        Prompts.load("en", tmp_path / "latin")


def test_a_language_of_prompts_that_nobody_wrote_is_told() -> None:
    with pytest.raises(EvaluationError, match=r"in 'fr': --prompt-language is one of en, zh, or"):
        Prompts.load("fr")


def test_a_language_without_a_name_is_told_with_its_cure() -> None:
    cell = Cell(TASKS["math"], "xx", "xx", "xx", (), ())
    with pytest.raises(EvaluationError, match=r"no name for the language 'xx': .*\[en.languages\]"):
        Prompts.load("en").of(cell)


def test_a_task_that_a_language_does_not_word_is_told(tmp_path: Path) -> None:
    path = override(
        tmp_path, '[bo]\nseparator = " "\noption = "{letter}"\n[bo.languages]\nbo = "x"'
    )
    with pytest.raises(EvaluationError, match=r"bo.reading_comprehension.instruction is missing"):
        Prompts.load("bo", path).of(READING)


def test_a_table_without_a_separator_is_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"template bo.option .*is missing"):
        Prompts.load("bo", override(tmp_path, '[bo.languages]\nbo = "x"'))


def test_all_languages_of_the_paper_have_a_name() -> None:
    for language in ("en", "zh"):
        assert Prompts.load(language).names.keys() >= {*WORDS, "ta", "te", "or", "bn", "dz"}


@pytest.mark.parametrize(
    ("answer", "reference"), [(0.00001, "0.00001"), (1e16, "10000000000000000"), (7, "7")]
)
def test_an_answer_is_a_number_as_a_person_writes_it(
    tmp_path: Path, answer: float, reference: str
) -> None:
    write_json(tmp_path / "math/bo/test.json", [{"id": 1, "question": "x", "answer": answer}])
    cell = load_cells(Selection(tmp_path, shots=0))[0]
    assert cell.items[0].reference == reference
