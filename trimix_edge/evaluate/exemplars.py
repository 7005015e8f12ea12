"""Which exemplars a prompt shows, and in which order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trimix_edge.evaluate.tasks import Item, Selection, Task

SHUFFLE_SEED = 0
"""Balanced exemplars are shuffled by Python's generator with this seed, as in the paper's code."""


@dataclass(frozen=True)
class Chosen:
    """Exemplars of a cell.

    Attributes:
        items: in the order of the prompt.
        kept: positions in ``items``, those first that stay where not all have room.
        wanted: how many were asked for: in all, or of each label where they are balanced.
        lacking: labels with fewer than that.
    """

    items: tuple[Item, ...]
    kept: tuple[int, ...]
    wanted: int
    lacking: tuple[str, ...] = ()

    @property
    def is_enough(self) -> bool:
        """Whether a prompt can be made: some labels may lack exemplars, not all."""
        return len(self.items) >= (1 if self.lacking else self.wanted)


def choose(
    task: Task,
    selection: Selection,
    files: Iterable[Callable[[], Sequence[Item]]],
    labels: Sequence[str],
) -> Chosen:
    """Choose as the paper does.

    Tasks with labels take the first of each label of the first file, in the order of ``labels``,
    and shuffle them; the others take the first of the file, in its order, and go on with the next
    file where one holds too few.

    Args:
        files: readers of the files of exemplars, the first one being that of the seed; those that
            are not needed are not called.
        labels: of the evaluated file.
    """
    wanted = selection.n_shots(task)
    if wanted == 0:
        return Chosen((), (), 0)
    if not selection.balances(task):
        items: list[Item] = []
        for read in files:
            items += read()
            if len(items) >= wanted:
                break
        items = items[:wanted]
        return Chosen(tuple(items), tuple(range(len(items))), wanted)
    held = next(iter(files))()
    by_label = [[e for e in held if e.reference == label][:wanted] for label in labels]
    # A place in the prompt for each: its number within its label, and the label's.
    places = [(n, at) for at, found in enumerate(by_label) for n in range(len(found))]
    shuffled = list(places)
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    rank = {place: at for at, place in enumerate(sorted(places))}
    return Chosen(
        items=tuple(by_label[at][n] for n, at in shuffled),
        kept=tuple(sorted(range(len(shuffled)), key=lambda at: rank[shuffled[at]])),
        wanted=wanted,
        lacking=tuple(
            label for label, found in zip(labels, by_label, strict=True) if len(found) < wanted
        ),
    )
