"""trio.toml: which files make a trio, and how it likes to be used.

name = "dzongkha"
description = "English to Dzongkha"
normalizer = "NFC"                    # of texts; "" for none, absent for what the GGUF says
script = "Tibt"                       # of its language, ISO 15924: what weights = "auto" looks at
exemplars = "exemplars.tsv"           # of generate --shots: a prompt, a tab and its answer a line

[models]                              # relative to the manifest
large_ins = "large_ins.gguf"
small_cpt = "small_cpt.gguf"
small_base = "small_base.gguf"        # may be absent where its weight is 0
# small_cpt = { model = "small_base", lora = "adapter.gguf" }     # one set of weights for two roles

[fusion]
weights = [0.5, 0.8]                  # large_ins, small_cpt; small_base is what is left of 1
                                      # or "auto", "auto:Tibt", "auto:all", "entropy": chosen
                                      # for each prompt
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

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path

from trimix_edge import values
from trimix_edge.config import (
    Adapter,
    ContextParams,
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    SamplingParams,
)
from trimix_edge.errors import TrioConfigError, UsageError, notice
from trimix_edge.scripts import check_script
from trimix_edge.trios.source import WeightSource
from trimix_edge.trios.table import Table
from trimix_edge.weights import Weights

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
    script: str | None = None
    exemplars: Path | None = None
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
        cls,
        trio: str | Path | TrioManifest | None = None,
        models: Mapping[Role, Path] | None = None,
    ) -> TrioManifest:
        """The manifest that a user means.

        Args:
            trio: an embedded trio's name, a ``trio.toml``, its folder, a manifest, or None.
            models: files that replace the manifest's; with no ``trio``, files that make one.

        Raises:
            TrioConfigError: there is no such trio, or its manifest is wrong.
        """
        files_given = dict(models or {})
        if trio is None and files_given:
            return cls(name="files", models=files_given, sampling=OWN_SAMPLING)
        if not isinstance(trio, TrioManifest):
            trio = cls.read(embedded_trios()[DEFAULT_TRIO] if trio is None else _locate(trio))
        return replace(
            trio,
            models={**trio.models, **files_given},
            adapters={r: a for r, a in trio.adapters.items() if r not in files_given},
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
        except RecursionError:
            raise TrioConfigError(f"{path}: its values are nested too deeply") from None
        table = Table(content, str(path))
        try:
            manifest = cls._from_table(table, path)
        except UsageError as error:
            raise TrioConfigError(f"{path}: {error}") from None
        table.refuse_unknown()
        return manifest

    @classmethod
    def _from_table(cls, table: Table, path: Path) -> TrioManifest:
        models = table.table("models")
        fusion = table.table("fusion")
        generation = table.table("generation")
        sampling = table.table("sampling")
        context = table.table("context")
        adapters = {role: models.adapter(role.value, path.parent) for role in Role}
        paths = {role: models.text(role.value) for role in Role if adapters[role] is None}
        mask = fusion.text("plausibility")
        normalizer = table.text("normalizer")
        script = table.text("script")
        exemplars = table.text("exemplars")
        max_tokens = generation.integer("max_tokens")
        if max_tokens is not None and max_tokens < -1:
            raise UsageError(f"generation.max_tokens is {max_tokens}: -1 is no limit")
        return cls(
            name=table.text("name") or path.parent.name,
            description=table.text("description") or "",
            normalizer=None if normalizer is None else values.normalizer(normalizer),
            script=None if script is None else check_script(script),
            exemplars=path.parent / exemplars if exemplars else None,
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
