"""Prompts against the paper's protocol, as its released code makes them: described here, not taken
from our own output.

Of each task: how many exemplars, which, in which order; what is cut; how blocks are laid out; how
often an answer is stated.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import write_json, write_milic

from trimix_edge.evaluate.data import load_cells
from trimix_edge.evaluate.tasks import Selection

Run = Callable[..., Any]

N_CHARS = 1024
LABELS = ("Travel", "Art", "Sport", "Health")
"""In the order of the files, which is not that of the alphabet."""


def long_text(mark: str) -> str:
    """A text whose 1,024th character is the last that may be shown: it ends with ``<mark>``."""
    shown = f"<{mark}>".rjust(N_CHARS, "ཀ")
    return shown + "ཁ" * 2000


def labelled(n: int, label: str) -> dict[str, Any]:
    text = long_text(f"t{n}") if n % 2 else f"<t{n}>"
    return {"id": n, "text": text, "label": {"en": label, "zh": f"{label}文"}}


def choice(n: int, **more: Any) -> dict[str, Any]:
    options = [f"option {n}-{m}" for m in range(4)]
    return {"id": n, "context": [f"<c{n}>", "second"], "options": options,
            "answer": "ABCD"[n % 4], **more}  # fmt: skip


def records(task: str, numbers: range) -> list[dict[str, Any]]:
    kinds: dict[str, Callable[[int], dict[str, Any]]] = {
        "reading_comprehension": lambda n: choice(n, question=f"<q{n}>"),
        "response_selection": choice,
        "title_generation_200": lambda n: {
            "id": n, "content": long_text(f"t{n}"), "title": f"title {n}",
        },
        "translation_dialogue": lambda n: {"id": n, "bo": f"བོད {n}.", "en": f"English {n}."},
        "math": lambda n: {
            "id": n,
            "question": f"<q{n}>",
            "answer": 100 + n,
            "cot": {"en": f"We add things. The answer is {100 + n}."},
        },
    }  # fmt: skip
    return [kinds[task](n) for n in numbers]


@pytest.fixture
def prompts(run: Run, tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a task's files, and has its first prompts printed."""

    def prompts(task: str, *arguments: str) -> list[str]:
        folder = tmp_path / "data" / task / "bo"
        if task.startswith("text_classification"):
            # Sorted by label, as the official files of exemplars are; 5 of each.
            train = [labelled(5 * at + n, label) for at, label in enumerate(LABELS)
                     for n in range(5)]  # fmt: skip
            test = [labelled(101 + n, label) for n, label in enumerate(LABELS)]
        else:
            train, test = records(task, range(20)), records(task, range(101, 104))
        write_json(folder / "test.json", test)
        for number in (1, 2, 3):
            write_json(folder / f"train_{number}.json", train)
        code, out, err = run(
            "evaluate", "--data", tmp_path / "data", "--print-prompts", "--json", *arguments
        )
        assert (code, err) == (0, "")
        return [entry["prompt"] for entry in json.loads(out)]

    return prompts


def blocks(prompt: str, n_exemplars: int) -> list[str]:
    """Exemplars and the question, an empty line between them; each has an instruction of its own,
    in one line, which names the language."""
    found = prompt.split("\n\n")
    assert len(found) == n_exemplars + 1
    instructions = {block.split("\n")[0] for block in found}
    assert len(instructions) == 1
    assert "Tibetan" in instructions.pop()
    return found


def answers(found: list[str]) -> list[str]:
    """What stands after the last colon of each exemplar."""
    return [block.rpartition("\n")[2].partition(":")[2].strip() for block in found[:-1]]


def option_lines(block: str) -> list[str]:
    return [line for line in block.split("\n") if re.match(r"[A-Z]\. ", line)]


@pytest.mark.parametrize("task", ["reading_comprehension", "response_selection"])
def test_choices_have_the_first_five_exemplars_and_lettered_options(
    prompts: Callable[..., list[str]], task: str
) -> None:
    (prompt,) = prompts(task)
    found = blocks(prompt, 5)
    for block, n in zip(found, [0, 1, 2, 3, 4, 101], strict=True):
        assert f"<c{n}>\nsecond" in block
        assert option_lines(block) == [f"{'ABCD'[m]}. option {n}-{m}" for m in range(4)]
        assert (f"<q{n}>" in block) == (task == "reading_comprehension")
    assert answers(found) == ["A", "B", "C", "D", "A"]
    assert prompt.endswith(":")


@pytest.mark.parametrize("task", ["text_classification", "text_classification_passage"])
def test_classification_has_three_of_each_label_shuffled_and_cut(
    prompts: Callable[..., list[str]], task: str
) -> None:
    (prompt,) = prompts(task)
    found = blocks(prompt, 12)
    # The labels are those of the evaluated file; the paper's code has them in no order, here they
    # are sorted. Of each the first three of the file; then one shuffle with seed 0.
    chosen = [5 * LABELS.index(label) + n for label in sorted(LABELS) for n in range(3)]
    random.seed(0)
    random.shuffle(chosen)
    shown = [int(re.findall(r"<t(\d+)>", block)[0]) for block in found]
    assert shown == [*chosen, 101]
    assert answers(found) == [LABELS[n // 5] for n in chosen]
    for block, n in zip(found, shown, strict=True):
        assert ", ".join(sorted(LABELS)) in block
        assert "ཁ" not in block
        assert block.count("ཀ") == (N_CHARS - len(f"<t{n}>") if n % 2 else 0)
    assert prompt.endswith(":")


def test_labels_are_those_of_the_whole_evaluated_file(
    prompts: Callable[..., list[str]],
) -> None:
    assert prompts("text_classification", "--limit", "1") == prompts("text_classification")


def test_titles_have_the_first_three_exemplars_and_cut_articles(
    prompts: Callable[..., list[str]],
) -> None:
    (prompt,) = prompts("title_generation_200")
    found = blocks(prompt, 3)
    for block, n in zip(found, [0, 1, 2, 101], strict=True):
        assert block.count("ཀ") == N_CHARS - len(f"<t{n}>")
        assert f"<t{n}>\n" in block
        assert "ཁ" not in block
    assert answers(found) == ["title 0", "title 1", "title 2"]
    assert prompt.endswith("Title: ")


def test_translation_has_the_first_five_exemplars_in_both_directions(
    prompts: Callable[..., list[str]],
) -> None:
    for direction, ours, theirs, end in (
        ("into", "English {}.", "བོད {}.", "Tibetan: "),
        ("from", "བོད {}.", "English {}.", "English: "),
    ):
        (prompt,) = prompts("translation_dialogue", "--direction", direction)
        found = blocks(prompt, 5)
        for block, n in zip(found, [0, 1, 2, 3, 4, 101], strict=True):
            assert ours.format(n) in block
        assert answers(found) == [theirs.format(n) for n in range(5)]
        assert theirs.format(101) not in prompt
        assert prompt.endswith(end)


def test_math_has_the_first_five_exemplars_that_state_their_answer_once(
    prompts: Callable[..., list[str]],
) -> None:
    (prompt,) = prompts("math")
    found = blocks(prompt, 5)
    for block, n in zip(found[:-1], range(5), strict=True):
        assert f"<q{n}>" in block
        assert block.endswith(f": We add things. The answer is {100 + n}.")
        assert block.count("The answer is") == block.count(str(100 + n)) == 1
    assert "<q101>" in found[-1]
    assert "The answer is" not in found[-1]
    assert prompt.endswith(":")


def test_nothing_is_added_to_the_reasoning_in_chinese_either(
    prompts: Callable[..., list[str]],
) -> None:
    (prompt,) = prompts("math", "--prompt-language", "zh")
    assert prompt.count("The answer is") == 5
    assert "答案是" not in prompt


def test_a_longer_context_shows_whole_texts_and_templates_get_cut_ones(
    prompts: Callable[..., list[str]], tmp_path: Path
) -> None:
    (prompt,) = prompts("title_generation_200", "--max-chars", "0")
    assert prompt.count("ཁ") == 4 * 2000
    (prompt,) = prompts("title_generation_200", "--max-chars", "10", "--shots", "1")
    assert prompt.count("ཀ") == 20
    templates = tmp_path / "templates.toml"
    templates.write_text('[en.title_generation_200]\nanswer = "{content}={answer}"', "utf-8")
    (prompt,) = prompts("title_generation_200", "--templates", str(templates), "--shots", "1")
    assert (prompt.count("ཀ"), prompt.count("ཁ")) == (2 * 1020 + 1018, 0)


def test_exemplars_may_be_the_first_of_the_file_or_another_number_of_each_label(
    prompts: Callable[..., list[str]],
) -> None:
    (prompt,) = prompts("text_classification", "--exemplars", "first")
    assert answers(blocks(prompt, 5)) == ["Travel"] * 5
    (prompt,) = prompts("text_classification", "--exemplars", "first", "--shots", "6")
    assert answers(blocks(prompt, 6)) == ["Travel"] * 5 + ["Art"]
    (prompt,) = prompts("text_classification", "--shots", "1")
    assert sorted(answers(blocks(prompt, 4))) == sorted(LABELS)


def test_fewer_exemplars_for_want_of_room_are_as_many_of_each_label(tmp_path: Path) -> None:
    write_milic(tmp_path, ("bo",), ("text_classification",), n_items=2)
    train = [labelled(5 * at + n, label) for at, label in enumerate(LABELS) for n in range(5)]
    write_json(tmp_path / "text_classification" / "bo" / "train_1.json", train)
    write_json(tmp_path / "text_classification" / "bo" / "test.json", train[::5])
    (cell,) = load_cells(Selection(tmp_path))
    assert cell.n_cut == (2, 6)  # those of odd numbers
    for shots in range(13):
        shown = cell.shown(shots)
        counts = [sum(item.reference == label for item in shown) for label in LABELS]
        assert sum(counts) == shots
        assert max(counts) - min(counts) <= 1
        assert [item for item in cell.exemplars if item in shown] == list(shown)
