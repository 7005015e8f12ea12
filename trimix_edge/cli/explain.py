"""Which model carried each token, as colours: what ``generate --explain`` shows."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from trimix_edge.config import Role

COLOURS = {Role.LARGE_INS: "cyan", Role.SMALL_CPT: "green", Role.SMALL_BASE: "magenta"}


class Explainer:
    """Shows text in the colour of the role that carried it, and a legend at the end.

    A token that is only a part of a character has no text yet: its shares count for the text that
    comes with the rest of the character.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self._waiting: dict[Role, float] = {}
        self._total: dict[Role, float] = {}
        self._n_tokens = 0

    def show(self, text: str, shares: Mapping[Role, float] | None) -> None:
        """Print a chunk's text at once."""
        for role, share in (shares or {}).items():
            self._waiting[role] = self._waiting.get(role, 0.0) + share
            self._total[role] = self._total.get(role, 0.0) + share
        self._n_tokens += shares is not None
        if text:
            self._console.print(Text(text, style=self._style()), end="")
            self._waiting.clear()

    def _style(self) -> str:
        best = max(self._waiting, key=lambda role: self._waiting[role], default=None)
        return COLOURS[best] if best is not None and self._waiting[best] > 0 else ""

    def legend(self) -> Text:
        """The roles in their colours, and the mean share of each."""
        legend = Text()
        for role, total in self._total.items():
            mean = total / max(self._n_tokens, 1)
            legend.append(f"{role} {mean:+.0%}  ", style=COLOURS[role])
        return legend
