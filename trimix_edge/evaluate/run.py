"""The loop: every system answers every item, once, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from trimix_edge.evaluate.hosts import HostChoice, choose_host, hosts_text
from trimix_edge.evaluate.plan import Plan, Progress, Settings
from trimix_edge.evaluate.prompts import CellPrompts
from trimix_edge.evaluate.results import HOSTS, Log, Prediction, ResultsFolder
from trimix_edge.evaluate.systems import System
from trimix_edge.evaluate.tasks import Cell, Item

if TYPE_CHECKING:
    from trimix_edge.decoding.generation import Generation

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
    def generate(self, prompt: str, **options: Any) -> Generation: ...


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
    cut into batches, so an answer would depend on where a run was interrupted.

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
        items = self._cell.items
        for at in range(len(log.predictions), len(items)):
            if on_progress is not None:
                on_progress(f"{name} {self._cell.name}", at, len(items))
            log.append(self._predict(items[at], self._asked[at]))
        if on_progress is not None:
            on_progress(f"{name} {self._cell.name}", len(items), len(items))

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

    def _predict(self, item: Item, asked: _Asked) -> Prediction:
        prediction = partial(
            Prediction,
            id=item.id,
            shots=asked.shots,
            reference=item.reference,
            n_options=len(item.options),
            prompt=asked.prompt if self._settings.keep_prompts else None,
        )
        if len(asked.tokens) >= self._answerer.n_ctx:
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
        done, text = self._answer_line(asked)
        return prediction(
            n_prompt=len(done.prompt_token_ids),
            n_evaluated=len(done.prompt_token_ids) - done.n_kept,
            n_tokens=len(done.token_ids),
            output=text,
            weights=self._system.weights_used(done),
            finish_reason=done.finish_reason,
            seconds={
                "prompt": round(done.timings.prompt, 6),
                "generation": round(done.timings.generation, 6),
            },
        )

    def _answer_line(self, asked: _Asked) -> tuple[Generation, str]:
        """A generation and its text, up to the end of the first line that is not blank.

        A stop string ends at the first newline, also at one before the answer: such an item is
        generated again without it. That is rare, and costs no more than the task's tokens.
        """
        self._go_back(asked)
        done = self._generate(asked.prompt, self._max_tokens)
        if done.finish_reason != "stop" or done.text.strip():
            return done, done.text
        self._go_back(asked)
        done = self._generate(asked.prompt, self._max_tokens, stop=())
        start = len(done.text) - len(done.text.lstrip())
        return done, done.text[:start] + done.text[start:].partition(STOP)[0]

    def _generate(self, prompt: str, max_tokens: int, stop: Sequence[str] = (STOP,)) -> Generation:
        return self._answerer.generate(
            prompt,
            chat=self._settings.chat,
            max_tokens=max_tokens,
            stop=list(stop),
            sampling=self._settings.repeatable_sampling,
            **self._system.options,
        )

    def _go_back(self, asked: _Asked) -> None:
        """Have read what all prompts share, as always; or nothing, before a prompt that differs."""
        if asked not in self._full or self._n_shared == 0:
            self._answerer.rewind(0, self._system)
            self._is_primed = False
            return
        if not self._is_primed:
            self._answerer.rewind(0, self._system)
            self._generate(self._full[0].prompt, 0)
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
