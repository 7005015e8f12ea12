"""The loop: every system answers every item, once, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trimix_edge.evaluate.plan import Plan, Progress
from trimix_edge.evaluate.prompts import CellPrompts
from trimix_edge.evaluate.results import Log, Prediction, ResultsFolder
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

    Args:
        load: loads the models, onto the stack; not called if nothing is left to be answered.

    Raises:
        TriMixError: the folder holds something else, or a model fails.
    """
    say = _Once(on_note)
    with ExitStack() as models:
        answerer: Answerer | None = None
        for system in plan.settings.systems:
            for cell in plan.cells:
                ids = [item.id for item in cell.items]
                with results.log(system.name, cell.name, ids) as log:
                    if len(log.predictions) == len(ids):
                        continue
                    answerer = answerer or load(models)
                    _Loop(plan, system, cell, answerer, say).answer(log, on_progress)


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
        self, plan: Plan, system: System, cell: Cell, answerer: Answerer, say: Note
    ) -> None:
        self._settings = plan.settings
        self._system = system
        self._cell = cell
        self._prompts: CellPrompts = plan.prompts[cell.name]
        self._answerer = answerer
        self._say = say
        self._max_tokens = self._room_for_an_answer()
        self._asked = [self._fitting(item) for item in cell.items]
        full = max(asked.shots for asked in self._asked)
        self._full = [a for a in self._asked if a.shots == full and len(a.tokens) < answerer.n_ctx]
        self._n_shared = _n_common([asked.tokens for asked in self._full])
        self._is_primed = False

    def answer(self, log: Log, on_progress: Progress | None) -> None:
        items = self._cell.items
        for at in range(len(log.predictions), len(items)):
            if on_progress is not None:
                on_progress(f"{self._system.name} {self._cell.name}", at, len(items))
            log.append(self._predict(items[at], self._asked[at]))
        if on_progress is not None:
            on_progress(f"{self._system.name} {self._cell.name}", len(items), len(items))

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
        shots, n_prompt = asked.shots, len(asked.tokens)
        if n_prompt >= self._answerer.n_ctx:
            self._say(
                f"some items of {self._cell.name} do not fit into {self._answerer.n_ctx} tokens, "
                f"even without exemplars: they count as wrong; raise --ctx"
            )
            seconds = {"prompt": 0.0, "generation": 0.0}
            return self._prediction(item, shots, n_prompt, 0, "", None, "overflow", seconds)
        self._go_back(asked)
        done = self._generate(asked.prompt, self._max_tokens)
        return self._prediction(
            item,
            shots,
            len(done.prompt_token_ids),
            len(done.token_ids),
            done.text,
            self._system.weights_used(done),
            done.finish_reason,
            {
                "prompt": round(done.timings.prompt, 6),
                "generation": round(done.timings.generation, 6),
            },
        )

    def _generate(self, prompt: str, max_tokens: int) -> Generation:
        return self._answerer.generate(
            prompt,
            chat=self._settings.chat,
            max_tokens=max_tokens,
            stop=[STOP],
            sampling=asdict(self._settings.repeatable_sampling),
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
        all_shots = len(self._prompts.exemplars)
        for shots in range(all_shots, -1, -1):
            prompt = self._prompts.prompt(item, shots)
            tokens = self._answerer.tokenize(prompt, chat=self._settings.chat)
            if len(tokens) + self._max_tokens <= self._answerer.n_ctx:
                break
        if shots < all_shots:
            self._say(
                f"not all prompts fit into {self._answerer.n_ctx} tokens with their exemplars: "
                f"fewer are used there, and the report counts them; --ctx makes room"
            )
        return _Asked(prompt, tokens, shots)

    def _prediction(
        self,
        item: Item,
        shots: int,
        n_prompt: int,
        n_tokens: int,
        output: str,
        weights: list[float] | None,
        finish_reason: str | None,
        seconds: dict[str, float],
    ) -> Prediction:
        return Prediction(
            id=item.id,
            shots=shots,
            n_prompt=n_prompt,
            n_tokens=n_tokens,
            output=output,
            reference=item.reference,
            n_options=len(item.options),
            weights=weights,
            finish_reason=finish_reason,
            seconds=seconds,
        )
