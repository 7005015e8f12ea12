"""The loop on a scripted model: an answer may begin with a newline, and ends with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmark_data import write_milic

from trimix_edge.evaluate.plan import Plan, Settings
from trimix_edge.evaluate.report import read_run, report
from trimix_edge.evaluate.results import ResultsFolder
from trimix_edge.evaluate.run import predict
from trimix_edge.evaluate.systems import System
from trimix_edge.evaluate.tasks import Selection
from trimix_edge.trios.manifest import TrioManifest

Predict = Callable[..., dict[str, Any]]


class Scripted:
    """Says the same to every prompt, a token a character, and ends at stop strings as the engine
    does."""

    n_ctx = 4096

    def __init__(self, text: str) -> None:
        self._text = text
        self.n_calls = 0

    def rewind(self, n_kept: int, system: System) -> None:
        pass

    def tokenize(self, prompt: str, *, chat: bool) -> list[int]:
        return list(prompt.encode())

    def generate(self, prompts: list[str], **options: Any) -> Any:
        return [self._answer(prompt, options) for prompt in prompts]

    def _answer(self, prompt: str, options: dict[str, Any]) -> Any:
        self.n_calls += options["max_tokens"] > 0
        text = self._text[: options["max_tokens"]]
        reason = "length" if len(text) < len(self._text) else "end"
        for stop in options["stop"]:
            if stop in text:
                text, reason = text.partition(stop)[0], "stop"
        return SimpleNamespace(
            text=text,
            token_ids=list(text.encode()),
            prompt_token_ids=self.tokenize(prompt, chat=False),
            finish_reason=reason,
            weights=None,
            chosen_by=None,
            timings=SimpleNamespace(prompt=0.0, generation=0.0),
            n_kept=0,
        )


@pytest.fixture
def scores(tiny: Path, tmp_path: Path) -> Predict:
    """What a report says of a model that always says the same."""

    def scores(text: str, task: str, judge: Any = "default") -> dict[str, Any]:
        data = write_milic(tmp_path / "data", ("bo",), (task,), n_items=1)
        manifest = TrioManifest.find(str(tiny))
        settings = Settings(
            selection=Selection(data, shots=0),
            manifest=manifest,
            systems=System.choose([], ["average"], None, manifest),
            context=manifest.context,
            sampling=manifest.sampling,
        )
        plan, model = Plan.make(settings), Scripted(text)
        results = ResultsFolder(tmp_path / "out", plan.configuration, force=True)
        results.describe({})
        predict(plan, results, lambda stack: model)
        (ran,) = read_run(tmp_path / "out")
        cell = report([ran], draws=10, judge=judge)["cells"][0]
        return {
            "score": cell["scores"][0]["value"],
            "output": ran.cells[cell["cell"]][0].output,
            "n_calls": model.n_calls,
        }

    return scores


@pytest.mark.parametrize(
    ("text", "task", "output"),
    [
        ("\nA", "response_selection", "\nA"),
        (" \nA", "reading_comprehension", " \n"),  # the paper's two tokens have no room for it
        ("\n\nThe answer is 1.\nThe next", "math", "\n\nThe answer is 1."),
        ("\nདེབ\nཆུ", "title_generation_200", "\nདེབ"),
    ],
)
@pytest.mark.parametrize("judge", ["default", "paper"])
def test_a_newline_before_an_answer_is_no_answer(
    scores: Predict, text: str, task: str, output: str, judge: str
) -> None:
    found = scores(text, task, judge)
    right = output.strip() != ""
    assert found == {"score": 100 * right, "output": output, "n_calls": 2}


def test_an_answer_ends_with_its_line_and_is_generated_once(scores: Predict) -> None:
    found = scores(" The answer is 1.\nProblem: 2", "math")
    assert found == {"score": 100, "output": " The answer is 1.", "n_calls": 1}


def test_an_output_without_any_line_is_blank(scores: Predict) -> None:
    assert scores("\n \n\n", "math") == {"score": 0, "output": "\n \n\n", "n_calls": 2}
