"""A table of TOML whose types are checked, as a ``trio.toml`` may come from anyone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimix_edge import values
from trimix_edge.config import Adapter, Draft, FusionWeights
from trimix_edge.errors import TrioConfigError
from trimix_edge.weights import Weights


class Table:
    """A TOML table that checks types, and knows which of its keys nobody asked for."""

    def __init__(self, content: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._content = content
        self._where = where
        self._prefix = prefix
        self._asked: set[str] = set()
        self._children: list[Table] = []

    def _get(self, key: str, kind: type, expected: str) -> Any:
        self._asked.add(key)
        value = self._content.get(key)
        if value is None:
            return None
        is_bool = isinstance(value, bool)
        if kind is float and isinstance(value, int) and not is_bool:
            value = self._number(key, value)
        if not isinstance(value, kind) or (is_bool and kind is not bool):
            raise TrioConfigError(
                f"{self._where}: {self._prefix}{key} must be {expected}, not {value!r}"
            )
        return value

    def _number(self, key: str, value: float) -> float:
        try:
            return float(value)
        except OverflowError:
            raise TrioConfigError(f"{self._where}: {self._prefix}{key} is too large") from None

    def table(self, key: str) -> Table:
        content = self._get(key, dict, "a table") or {}
        child = Table(content, self._where, f"{self._prefix}{key}.")
        self._children.append(child)
        return child

    def text(self, key: str) -> str | None:
        value: str | None = self._get(key, str, "a string")
        return value

    def adapter(self, key: str, folder: Path) -> Adapter | None:
        """What ``{ model = ROLE, lora = FILE }`` says; None where there is no such table."""
        if not isinstance(self._content.get(key), dict):
            return None
        entry = self.table(key)
        base, lora = entry.text("model"), entry.text("lora")
        if not base or not lora:
            raise TrioConfigError(
                f"{self._where}: {self._prefix}{key} must be a file, or "
                f'{{ model = "small_base", lora = FILE }}'
            )
        return Adapter(values.role(base), folder / lora)

    def boolean(self, key: str) -> bool | None:
        value: bool | None = self._get(key, bool, "true or false")
        return value

    def integer(self, key: str) -> int | None:
        value: int | None = self._get(key, int, "a whole number")
        return value

    def draft(self, key: str) -> Draft:
        expected = '"auto", "off" or a number of tokens'
        if isinstance(self._content.get(key), int):
            return Draft(self._get(key, int, expected))
        return values.draft(self._get(key, str, expected) or "auto")

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list, "a list of strings") or []
        if not all(isinstance(v, str) for v in values):
            raise TrioConfigError(
                f"{self._where}: {self._prefix}{key} must be a list of strings, not {values!r}"
            )
        if "" in values:
            raise TrioConfigError(f"{self._where}: {self._prefix}{key} holds an empty string")
        return tuple(values)

    def weights(self, key: str) -> Weights | None:
        if isinstance(self._content.get(key), str):
            word = self.text(key) or ""
            if not word.startswith(("auto", "entropy")):
                raise TrioConfigError(
                    f'{self._where}: {self._prefix}{key} must be two numbers, "auto", '
                    f'"auto:SCRIPT", "auto:all" or "entropy", not {word!r}'
                )
            return values.weights(word)
        pair = self._get(key, list, "a list of two numbers")
        if pair is None:
            return None
        if len(pair) != 2 or any(
            isinstance(v, bool) or not isinstance(v, (int, float)) for v in pair
        ):
            raise TrioConfigError(
                f"{self._where}: {self._prefix}{key} must be [large_ins, small_cpt], two numbers, "
                f"not {pair!r}"
            )
        return FusionWeights(self._number(key, pair[0]), self._number(key, pair[1]))

    def fields(self, defaults: object, names: tuple[str, ...]) -> dict[str, Any]:
        """The fields of a dataclass that the table sets, of the types that its defaults have."""
        kinds = {
            "grammar": (str, "a string"),
            "seed": (int, "a whole number"),
        }
        by_type = {
            int: (int, "a whole number"),
            float: (float, "a number"),
            str: (str, "a string"),
        }
        found = {}
        for name in names:
            kind, expected = kinds.get(name) or by_type[type(getattr(defaults, name))]
            value = self._get(name, kind, expected)
            if value is not None:
                found[name] = value
        return found

    def refuse_unknown(self) -> None:
        for key in self._content:
            if key not in self._asked:
                close = difflib.get_close_matches(key, self._asked, n=1)
                hint = (
                    f"did you mean {close[0]}?"
                    if close
                    else f"known: {', '.join(sorted(self._asked))}"
                )
                raise TrioConfigError(f"{self._where}: unknown key {self._prefix}{key}; {hint}")
        for child in self._children:
            child.refuse_unknown()
