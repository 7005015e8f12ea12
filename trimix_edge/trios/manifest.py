"""trio.toml: which files make a trio, and how it likes to be used.

name = "dzongkha"
description = "English to Dzongkha"
normalizer = "NFC"                    # of texts; "" for none, absent for what the GGUF says

[models]                              # relative to the manifest
large_ins = "large_ins.gguf"
small_cpt = "small_cpt.gguf"
small_base = "small_base.gguf"        # may be absent where its weight is 0
# small_cpt = { model = "small_base", lora = "adapter.gguf" }     # one set of weights for two roles

[fusion]
weights = [0.5, 0.8]                  # large_ins, small_cpt; small_base is what is left of 1
                                      # or "auto", "entropy": chosen for each prompt
plausibility = "small_cpt:0.1"        # a table [fusion.source], written by fit: where they are from

[sampling]                            # any field of SamplingParams
repeat_penalty = 1.1

[generation]
chat = true                           # prompts go through the chat template of large_ins
lines = true                          # a prompt is one line: a notice tells of generate --lines
max_tokens = 256                      # -1: as many as the context holds
stop = ["\\n"]
draft = "auto"                        # or "off", or a number of tokens

[context]                             # n_ctx, n_batch, kv_type
n_ctx = 1024
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from trimix_edge import values
from trimix_edge.config import (
    Adapter,
    ContextParams,
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    SamplingParams,
    WeightChoice,
    Weights,
    check_normalizer,
)
from trimix_edge.errors import TrioConfigError, UsageError, notice
from trimix_edge.trios.source import WeightSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST = "trio.toml"
DEFAULT_TRIO = "dzongkha"
PAPER_WEIGHTS = FusionWeights(0.1, 0.9)
"""The pair that the paper's method chose in most of its settings; ``small_base`` is not needed."""

OWN_SAMPLING = SamplingParams(temperature=0.8)
"""llama.cpp's defaults, for files that bring no settings of their own. Greedy decoding of small
models, without penalties, tends to loop."""

BOM = "\ufeff"  # some editors write one
_CONTEXT_KEYS = ("n_ctx", "n_batch", "kv_type")
_SAMPLING_KEYS = tuple(f.name for f in fields(SamplingParams) if f.name != "logit_bias")


@dataclass(frozen=True)
class TrioManifest:
    """What a ``trio.toml`` says, with its silences filled by defaults."""

    name: str
    models: Mapping[Role, Path]
    description: str = ""
    normalizer: str | None = None
    weights: Weights = PAPER_WEIGHTS
    plausibility: Plausibility | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    context: ContextParams = field(default_factory=ContextParams)
    chat: bool = False
    lines: bool = False
    max_tokens: int | None = None
    draft: Draft = field(default_factory=Draft)
    stop: tuple[str, ...] = ()
    adapters: Mapping[Role, Adapter] = field(default_factory=dict)
    source: WeightSource | None = None
    path: Path | None = field(default=None, compare=False)

    @classmethod
    def find(
        cls, trio: str | Path | None = None, models: Mapping[Role, Path] | None = None
    ) -> TrioManifest:
        """The manifest that a user means.

        Args:
            trio: the name of an embedded trio, a ``trio.toml``, a folder that holds one, or None.
            models: files that replace the manifest's; with no ``trio``, files that make one.

        Raises:
            TrioConfigError: there is no such trio, or its manifest is wrong.
        """
        files_given = dict(models or {})
        if trio is None and files_given:
            return cls(name="files", models=files_given, sampling=OWN_SAMPLING)
        path = embedded_trios()[DEFAULT_TRIO] if trio is None else _locate(trio)
        manifest = cls.read(path)
        return replace(
            manifest,
            models={**manifest.models, **files_given},
            adapters={r: a for r, a in manifest.adapters.items() if r not in files_given},
        )

    @classmethod
    def read(cls, path: Path) -> TrioManifest:
        """Read one manifest.

        Raises:
            TrioConfigError: not TOML, an unknown key, or a value of the wrong type or range.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8").removeprefix(BOM))
        except OSError as error:
            raise TrioConfigError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise TrioConfigError(f"{path} is not UTF-8 text") from None
        except tomllib.TOMLDecodeError as error:
            raise TrioConfigError(f"{path} is not TOML: {error}") from None
        table = _Table(content, str(path))
        try:
            manifest = cls._from_table(table, path)
        except UsageError as error:
            raise TrioConfigError(f"{path}: {error}") from None
        table.refuse_unknown()
        return manifest

    @classmethod
    def _from_table(cls, table: _Table, path: Path) -> TrioManifest:
        models = table.table("models")
        fusion = table.table("fusion")
        generation = table.table("generation")
        sampling = table.table("sampling")
        context = table.table("context")
        adapters = {role: models.adapter(role.value, path.parent) for role in Role}
        paths = {role: models.text(role.value) for role in Role if adapters[role] is None}
        mask = fusion.text("plausibility")
        normalizer = table.text("normalizer")
        max_tokens = generation.integer("max_tokens")
        if max_tokens is not None and max_tokens < -1:
            raise UsageError(f"generation.max_tokens is {max_tokens}: -1 is no limit")
        return cls(
            name=table.text("name") or path.parent.name,
            description=table.text("description") or "",
            normalizer=None if normalizer is None else check_normalizer(normalizer),
            models={role: path.parent / text for role, text in paths.items() if text},
            weights=fusion.weights("weights") or PAPER_WEIGHTS,
            plausibility=values.plausibility(mask) if mask else None,
            source=WeightSource.read(fusion.table("source")),
            sampling=SamplingParams(**sampling.fields(SamplingParams(), _SAMPLING_KEYS)),
            context=ContextParams(**context.fields(ContextParams(), _CONTEXT_KEYS)),
            chat=generation.boolean("chat") or False,
            lines=generation.boolean("lines") or False,
            max_tokens=max_tokens,
            draft=generation.draft("draft"),
            stop=generation.texts("stop"),
            adapters={role: adapter for role, adapter in adapters.items() if adapter},
            path=path,
        )


def is_trio(text: str) -> bool:
    """Whether a text is the name of an embedded trio, or of a folder that holds one."""
    return text in embedded_trios() or is_trio_folder(text)


def is_trio_folder(text: str) -> bool:
    """Whether a text is the name of a folder that holds a manifest."""
    in_folder = os.path.join(text, MANIFEST)  # noqa: PTH118, as a prompt may be no path at all
    return os.path.isfile(in_folder)  # noqa: PTH113


def _locate(trio: str | Path) -> Path:
    path = Path(trio)
    embedded = embedded_trios().get(str(trio))
    is_file = os.path.isfile(path)  # noqa: PTH113, as what was meant for a prompt may be no path
    if is_trio_folder(str(trio)):
        if embedded is not None:
            notice(
                f"the folder {path} is used, not the embedded trio of that name: name another "
                f"folder to use that one"
            )
        return path / MANIFEST
    if is_file and path.suffix == ".toml":
        return path
    if embedded is not None:
        return embedded
    if os.path.isdir(path):  # noqa: PTH112
        raise TrioConfigError(f"{path} holds no {MANIFEST}")
    if is_file:
        raise TrioConfigError(
            f"{path} is not a {MANIFEST}: name a GGUF file with --large-ins, --small-cpt or "
            f"--small-base"
        )
    raise TrioConfigError(
        f"no trio is called {str(trio)!r}: it is neither a file or folder nor one of "
        f"{', '.join(sorted(embedded_trios()))}"
    )


def embedded_trios() -> dict[str, Path]:
    """The trios inside this package, by name."""
    root = Path(str(files("trimix_edge"))) / "trios"
    return {path.parent.name: path for path in root.glob(f"*/{MANIFEST}")}


class _Table:
    """A TOML table that checks types, and knows which of its keys nobody asked for."""

    def __init__(self, content: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._content = content
        self._where = where
        self._prefix = prefix
        self._asked: set[str] = set()
        self._children: list[_Table] = []

    def _get(self, key: str, kind: type, expected: str) -> Any:
        self._asked.add(key)
        value = self._content.get(key)
        if value is None:
            return None
        is_bool = isinstance(value, bool)
        if kind is float and isinstance(value, int) and not is_bool:
            value = float(value)
        if not isinstance(value, kind) or (is_bool and kind is not bool):
            raise TrioConfigError(
                f"{self._where}: {self._prefix}{key} must be {expected}, not {value!r}"
            )
        return value

    def table(self, key: str) -> _Table:
        content = self._get(key, dict, "a table") or {}
        child = _Table(content, self._where, f"{self._prefix}{key}.")
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
            word = self.text(key)
            if word not in tuple(WeightChoice):
                raise TrioConfigError(
                    f'{self._where}: {self._prefix}{key} must be two numbers, "auto" or '
                    f'"entropy", not {word!r}'
                )
            return WeightChoice(word)
        values = self._get(key, list, "a list of two numbers")
        if values is None:
            return None
        if len(values) != 2 or any(
            isinstance(v, bool) or not isinstance(v, (int, float)) for v in values
        ):
            raise TrioConfigError(
                f"{self._where}: {self._prefix}{key} must be [large_ins, small_cpt], two numbers, "
                f"not {values!r}"
            )
        return FusionWeights(float(values[0]), float(values[1]))

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
