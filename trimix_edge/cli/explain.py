"""Which model carried each token: what ``generate --explain`` shows, in colours or as text."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from trimix_edge.config import Role

LEGEND = (
    "share of each model in the text, + for and - against the tokens that were chosen, mean of all "
    "tokens: "
)

COLOURS = {Role.LARGE_INS: "cyan", Role.SMALL_CPT: "green", Role.SMALL_BASE: "magenta"}


class Explainer:
    """Shows text in the colour of the role that carried it, and a legend at the end. Without
    colours, in a pipe or a file, each piece is a line with its shares.

    The magnitudes of a token's shares add up to 1. A token that is only a part of a character has
    no text yet: it counts for the text that comes with the rest of the character. Such a line has
    the mean of its tokens, and their number. Its magnitudes add up to less than 1 where a model was
    for one of the tokens and against another.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self._waiting: dict[Role, float] = {}
        self._total: dict[Role, float] = {}
        self._n_tokens = self._n_waiting = 0

    def show(self, text: str, shares: Mapping[Role, float] | None) -> None:
        """Print a chunk's text at once."""
        for role, share in (shares or {}).items():
            self._waiting[role] = self._waiting.get(role, 0.0) + share
            self._total[role] = self._total.get(role, 0.0) + share
        self._n_tokens += shares is not None
        self._n_waiting += shares is not None
        if text and self.has_colours:
            self._console.print(Text(text, style=self._style()), end="")
        elif text:
            n = max(self._n_waiting, 1)
            told = "  ".join(f"{role} {share / n:+.2f}" for role, share in self._waiting.items())
            many = f"\tmean of {n} tokens" if n > 1 else ""
            print(f"{json.dumps(text, ensure_ascii=False)}\t{told}{many}", file=self._console.file)
        if text:
            self._waiting.clear()
            self._n_waiting = 0

    @property
    def has_colours(self) -> bool:
        """Whether colours can be seen where the text goes."""
        return self._console.is_terminal and self._console.color_system is not None

    def _style(self) -> str:
        best = max(self._waiting, key=lambda role: self._waiting[role], default=None)
        return COLOURS[best] if best is not None and self._waiting[best] > 0 else ""

    def legend(self) -> Text:
        """What the colours and numbers say: the roles, and the mean share of each."""
        legend = Text(LEGEND)
        for role, total in self._total.items():
            mean = total / max(self._n_tokens, 1)
            legend.append(f"{role} {mean:+.0%}  ", style=COLOURS[role])
        return legend
