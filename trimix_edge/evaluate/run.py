"""The loop: every system answers every item, once, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from trimix_edge.evaluate.hosts import HostChoice, choose_host, hosts_text
from trimix_edge.evaluate.plan import Plan, Progress, Settings
from trimix_edge.evaluate.prompts import CellPrompts
from trimix_edge.evaluate.results import HOSTS, Log, Prediction, ResultsFolder
from trimix_edge.evaluate.systems import System
from trimix_edge.evaluate.tasks import Cell, Item

if TYPE_CHECKING:
    from trimix_edge.decoding.run import Generation

STOP = "\n"
"""An answer is one line (paper, section 4)."""

Note = Callable[[str], None]
"""Called with what a person should know, once a run."""


class Answerer(Protocol):
    """What the loop needs of a :class:`~trimix_edge.trimix.TriMix`."""

    @property
    def n_ctx(self) -> int: ...
    def rewind(self, n_kept: int, system: System) -> None: ...
    def tokenize(self, prompt: str, *, chat: bool) -> list[int]: ...
    def generate(self, prompts: list[str], **options: Any) -> list[Generation]: ...


def predict(
    plan: Plan,
    results: ResultsFolder,
    load: Callable[[ExitStack], Answerer],
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> None:
    """Answer what has no answer yet.

    The prompts of a cell begin with the same exemplars: what all of them share is read once, from
    the cell's first prompt, and every item goes on from exactly there. More is not kept, though
    neighbours may share more: what a model computes depends, in its last bits, on how tokens were
    cut into batches, so an answer would depend on where a run was interrupted. For the same reason
    items are answered in groups of ``settings.parallel``, from the same item on: a run that is
    resumed makes the same groups.

    A system that chooses its host answers the dev data with each host first.

    Args:
        load: loads the models, onto the stack; not called if nothing is left to be answered.

    Raises:
        TriMixError: the folder holds something else, or a model fails.
    """
    say = _Once(on_note)
    for cell in plan.cells:
        if cell.lacking:
            say(
                f"{cell.name}: fewer exemplars than are wanted of the labels "
                f"{', '.join(cell.lacking)}: all that the file holds are shown"
            )
    with ExitStack() as models:
        loaded: list[Answerer] = []

        def answerer() -> Answerer:
            if not loaded:
                loaded.append(load(models))
            return loaded[0]

        def fill(system: System, cell: Cell, prompts: CellPrompts, name: str) -> list[Prediction]:
            with results.log(name, cell.name, [item.id for item in cell.items]) as log:
                if len(log.predictions) < len(cell.items):
                    loop = _Loop(plan.settings, system, cell, prompts, answerer(), say)
                    loop.answer(log, name, on_progress)
                return log.predictions

        chosen: dict[str, dict[str, HostChoice]] = {}
        for system in plan.settings.systems:
            for cell in plan.cells:
                asked = system
                if system.picks_host:
                    choice = choose_host(plan, system, cell.name, fill)
                    chosen.setdefault(system.name, {})[cell.name] = choice
                    asked = system.with_host(choice.host)
                fill(asked, cell, plan.prompts[cell.name], system.name)
        if chosen:
            results.write(HOSTS, hosts_text(chosen))


class _Once:
    """Tells each thing once."""

    def __init__(self, on_note: Note | None) -> None:
        self._on_note = on_note
        self._told: set[str] = set()

    def __call__(self, text: str) -> None:
        if self._on_note is not None and text not in self._told:
            self._told.add(text)
            self._on_note(text)


@dataclass(frozen=True)
class _Asked:
    """A prompt that fits, its tokens and its exemplars."""

    prompt: str
    tokens: list[int]
    shots: int


def _n_common(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with; the last one of a prompt is never counted."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)  # in the order of words, all others lie between them
    most = min(map(len, prompts)) - 1
    n = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), most)
    return min(n, most)


class _Loop:
    """One system on one cell."""

    def __init__(
        self,
        settings: Settings,
        system: System,
        cell: Cell,
        prompts: CellPrompts,
        answerer: Answerer,
        say: Note,
    ) -> None:
        self._settings = settings
        self._system = system
        self._cell = cell
        self._prompts = prompts
        self._answerer = answerer
        self._say = say
        self._max_tokens = self._room_for_an_answer()
        self._asked = [self._fitting(item) for item in cell.items]
        full = max(asked.shots for asked in self._asked)
        self._full = [a for a in self._asked if a.shots == full and len(a.tokens) < answerer.n_ctx]
        self._n_shared = _n_common([asked.tokens for asked in self._full])
        self._is_primed = False

    def answer(self, log: Log, name: str, on_progress: Progress | None) -> None:
        items, size = self._cell.items, self._settings.parallel
        label = f"{name} {self._cell.name}"
        n_done = len(log.predictions)
        for start in range(n_done - n_done % size, len(items), size):
            if on_progress is not None:
                on_progress(label, len(log.predictions), len(items))
            end = min(start + size, len(items))
            for prediction in self._predict(start, end)[len(log.predictions) - start :]:
                log.append(prediction)
        if on_progress is not None:
            on_progress(label, len(items), len(items))

    def _room_for_an_answer(self) -> int:
        """Tokens of an answer; more than the task's where a label of the data would not fit."""
        limit = self._cell.task.max_tokens
        longest = max(
            (len(self._answerer.tokenize(label, chat=False)) for label in self._cell.labels),
            default=0,
        )
        if longest > limit:
            self._say(
                f"{self._cell.name}: a label has {longest} tokens, so answers may have as many "
                f"instead of {limit}"
            )
        return max(limit, longest)

    def _predict(self, start: int, end: int) -> list[Prediction]:
        """The predictions of a group."""
        asked = self._asked[start:end]
        fitting = [a for a in asked if len(a.tokens) < self._answerer.n_ctx]
        answers = iter(self._answer_lines(fitting) if fitting else [])
        return [
            self._prediction(item, a, next(answers) if a in fitting else None)
            for item, a in zip(self._cell.items[start:end], asked, strict=True)
        ]

    def _prediction(
        self, item: Item, asked: _Asked, answer: tuple[Generation, str] | None
    ) -> Prediction:
        prediction = partial(
            Prediction,
            id=item.id,
            shots=asked.shots,
            reference=item.reference,
            n_options=len(item.options),
            prompt=asked.prompt if self._settings.keep_prompts else None,
        )
        if answer is None:
            self._say(
                f"some items of {self._cell.name} do not fit into {self._answerer.n_ctx} tokens, "
                f"even without exemplars: they count as wrong; raise --ctx"
            )
            return prediction(
                n_prompt=len(asked.tokens),
                n_evaluated=0,
                n_tokens=0,
                output="",
                weights=None,
                finish_reason="overflow",
                seconds={"prompt": 0.0, "generation": 0.0},
            )
        done, text = answer
        return prediction(
            n_prompt=len(done.prompt_token_ids),
            n_evaluated=len(done.prompt_token_ids) - done.n_kept,
            n_tokens=len(done.token_ids),
            output=text,
            weights=self._system.weights_used(done),
            chosen_by=done.chosen_by,
            finish_reason=done.finish_reason,
            seconds={
                "prompt": round(done.timings.prompt, 6),
                "generation": round(done.timings.generation, 6),
            },
        )

    def _answer_lines(self, asked: list[_Asked]) -> list[tuple[Generation, str]]:
        """Generations and their texts, up to the end of the first line that is not blank.

        A stop string ends at the first newline, also at one before the answer: such an item is
        generated again without it. That is rare, and costs no more than the task's tokens.
        """
        self._go_back(asked)
        answers = [(done, done.text) for done in self._generate(asked, self._max_tokens)]
        blank = [
            i
            for i, (done, text) in enumerate(answers)
            if done.finish_reason == "stop" and not text.strip()
        ]
        if blank:
            self._go_back(asked)
            again = self._generate([asked[i] for i in blank], self._max_tokens, stop=())
            for i, done in zip(blank, again, strict=True):
                start = len(done.text) - len(done.text.lstrip())
                line = done.text[:start] + done.text[start:].partition(STOP)[0]
                answers[i] = done, line
        return answers

    def _generate(
        self, asked: list[_Asked], max_tokens: int, stop: Sequence[str] = (STOP,)
    ) -> list[Generation]:
        return self._answerer.generate(
            [a.prompt for a in asked],
            chat=self._settings.chat,
            max_tokens=max_tokens,
            stop=list(stop),
            sampling=asdict(self._settings.repeatable_sampling),
            **self._system.options,
        )

    def _go_back(self, asked: list[_Asked]) -> None:
        """Have read what all prompts share, as always; or nothing, before a prompt that differs."""
        if self._n_shared == 0 or any(a not in self._full for a in asked):
            self._answerer.rewind(0, self._system)
            self._is_primed = False
            return
        if not self._is_primed:
            self._answerer.rewind(0, self._system)
            self._generate(self._full[:1], 0)
            self._is_primed = True
        self._answerer.rewind(self._n_shared, self._system)

    def _fitting(self, item: Item) -> _Asked:
        """The prompt with as many exemplars as leave room for an answer."""
        asked = self._with(item, self._prompts.shots)
        if asked.shots and not self._has_room(asked):
            few, many = 0, self._prompts.shots  # exemplars that fit, if any do, and that do not
            asked = self._with(item, few)
            while many - few > 1:
                tried = self._with(item, (few + many) // 2)
                if self._has_room(tried):
                    few, asked = tried.shots, tried
                else:
                    many = tried.shots
            self._say(
                f"not all prompts fit into {self._answerer.n_ctx} tokens with their exemplars: "
                f"fewer are used there, and the report counts them; --ctx makes room"
            )
        return asked

    def _with(self, item: Item, shots: int) -> _Asked:
        prompt = self._prompts.prompt(item, shots)
        return _Asked(prompt, self._answerer.tokenize(prompt, chat=self._settings.chat), shots)

    def _has_room(self, asked: _Asked) -> bool:
        return len(asked.tokens) + self._max_tokens <= self._answerer.n_ctx
