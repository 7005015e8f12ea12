"""Trios by name: which checkpoints of the Hub make one, and what is known about them.

The data are in ``presets.toml`` beside this file.
"""

from __future__ import annotations

import difflib
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from trimix_edge.config import FusionWeights, Role
from trimix_edge.errors import UsageError, notice
from trimix_edge.gguf import DEFAULT_N_CTX, ModelShape
from trimix_edge.hub.client import HubId
from trimix_edge.planning.memory import MemoryNeed
from trimix_edge.planning.plan import Target
from trimix_edge.planning.weights import ModelWeights, of_sizes
from trimix_edge.trios.manifest import PAPER_WEIGHTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_QUANTIZATION = "Q4_K_M"

CHARACTERS_SOURCE = "the Universal Declaration of Human Rights in this language"
"""What the characters of a token were counted on, with each family's own tokenizer."""


@dataclass(frozen=True)
class PresetModel:
    """One model of a preset.

    Attributes:
        license: as the Hub calls it.
        gguf: a repository with ready quantised files; None where conversion is the only way.
        gated: a licence has to be accepted before anything can be downloaded.
        needs_pytorch: its weights are pickles.
        sizes: bytes of all tensors, by type of file.
        is_tied: its output layer is its embedding.
    """

    hub_id: HubId
    license: str
    shape: ModelShape
    sizes: Mapping[str, int]
    gguf: HubId | None = None
    gated: bool = False
    needs_pytorch: bool = False
    is_tied: bool = False

    @property
    def is_difficult(self) -> bool:
        """Whether something has to be accepted or installed first."""
        return self.gated or self.needs_pytorch

    def n_bytes(self, quantization: str) -> int:
        """Bytes of its tensors in a file of that type.

        Raises:
            UsageError: the presets tell no size for this type.
        """
        if quantization not in self.sizes:
            known = ", ".join(self.sizes)
            raise UsageError(f"no sizes are known for {quantization!r}: use one of {known}")
        return self.sizes[quantization]

    def weights(self, quantization: str) -> ModelWeights:
        """Its weights in a file of that type, by type.

        Raises:
            UsageError: see :meth:`n_bytes`.
        """
        sizes = self.n_bytes(quantization), self.n_bytes("F16")
        return of_sizes(self.shape, quantization, *sizes, is_tied=self.is_tied)

    def memory(self, quantization: str, n_ctx: int = DEFAULT_N_CTX) -> MemoryNeed:
        return MemoryNeed.of(self.shape, self.n_bytes(quantization), n_ctx)


@dataclass(frozen=True)
class Preset:
    """A trio that can be pulled.

    Attributes:
        language: its code, as ``bo``; ``language_name`` spells it out.
        script: its script's code of ISO 15924, as ``Tibt``.
        prompt_language: the language of the prompts that ``task_weights`` were chosen with.
        task_weights: what the paper's authors published, by task; may be empty.
        characters: of text in its language that one token stands for; None where none were counted.
    """

    name: str
    language: str
    language_name: str
    script: str
    prompt_language: str
    models: Mapping[Role, PresetModel]
    task_weights: Mapping[str, FusionWeights]
    characters: float | None = None

    @property
    def weights(self) -> FusionWeights:
        """The pair that was chosen for most tasks; the paper's commonest where none is known."""
        counts = Counter(self.task_weights.values())
        return counts.most_common(1)[0][0] if counts else PAPER_WEIGHTS

    @property
    def licenses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(model.license for model in self.models.values()))

    def target(self, quantizations: Iterable[str]) -> Target:
        """What to plan for: its models in these types.

        Raises:
            UsageError: the presets tell no size for one of the types.
        """
        return Target(
            self.name,
            {
                quantization: {
                    str(role): model.weights(quantization) for role, model in self.models.items()
                }
                for quantization in quantizations
            },
            tuple(str(role) for role in self.weights.roles),
            self.characters,
            CHARACTERS_SOURCE if self.characters else "",
        )

    def n_bytes(self, quantization: str) -> int:
        """Bytes of its three files, vocabularies left out."""
        return sum(model.n_bytes(quantization) for model in self.models.values())

    def memory(
        self,
        quantization: str,
        n_ctx: int = DEFAULT_N_CTX,
        roles: Collection[Role] = tuple(Role),
    ) -> int:
        """Bytes that these models, all three if nothing is said, take while they run."""
        return sum(self.models[role].memory(quantization, n_ctx).total for role in roles)


def presets_content() -> dict[str, Any]:
    """``presets.toml`` as it stands."""
    text = (files("trimix_edge.hub") / "presets.toml").read_text(encoding="utf-8")
    content: dict[str, Any] = tomllib.loads(text)
    return content


@cache
def presets() -> Mapping[str, Preset]:
    """All presets, by name."""
    content = presets_content()
    models = {
        name: _model(name, entry, content["shapes"][entry["shape"]], content["sizes"])
        for name, entry in content["models"].items()
    }
    found = {}
    for name, entry in content["trios"].items():
        language = entry["language"]
        family = content["models"][entry["large_ins"]]["shape"].rpartition("-")[0]
        published = content["weights"][entry["weights"]] if "weights" in entry else {}
        found[name] = Preset(
            name=name,
            language=language,
            language_name=content["languages"][language],
            script=content["scripts"][language],
            prompt_language=entry["prompt_language"],
            models={role: models[entry[role.value]] for role in Role},
            task_weights={task: FusionWeights(*row[language]) for task, row in published.items()},
            characters=content["characters"][family].get(language),
        )
    return found


def presets_for(language: str) -> list[Preset]:
    """The presets for a language, given by its code or its English name; may be none."""
    wanted = language.strip().casefold()
    return [
        preset
        for preset in presets().values()
        if wanted
        in (
            preset.language,
            preset.language_name.casefold(),
            preset.language_name.partition(" (")[0].casefold(),
        )
    ]


def find_preset(name: str) -> Preset:
    """The preset of that name, or the smallest for a language that can be had without a licence to
    accept and without PyTorch, with a notice.

    Raises:
        UsageError: there is none; names the closest.
    """
    known = presets()
    if name not in known:
        if found := presets_for(name):
            free = [p for p in found if not any(m.is_difficult for m in p.models.values())]
            smallest = min(free or found, key=lambda p: p.n_bytes(DEFAULT_QUANTIZATION))
            others = f", the smallest of {len(found)}" if len(found) > 1 else ""
            notice(f"{name}: {smallest.name}{others}; trimix-edge presets lists them")
            return smallest
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else "see trimix-edge presets"
        raise UsageError(f"no preset is called {name!r}: {hint}")
    return known[name]


def _model(
    name: str, entry: Mapping[str, Any], shape: Mapping[str, Any], sizes: Mapping[str, Any]
) -> PresetModel:
    return PresetModel(
        hub_id=HubId.parse(name),
        license=entry["license"],
        shape=ModelShape(
            n_layer=shape["n_layer"],
            n_embd=shape["n_embd"],
            n_ff=shape["n_ff"],
            n_head=shape["n_head"],
            kv_width=shape["n_layer"] * shape["n_head_kv"] * 2 * shape["head_dim"],
            n_vocab=shape["n_vocab"],
        ),
        sizes={name: 1_000_000 * row[entry["shape"]] for name, row in sizes.items()},
        gguf=HubId.parse(entry["gguf"]) if "gguf" in entry else None,
        gated=entry.get("gated", False),
        needs_pytorch=entry.get("pickle", False),
        is_tied=shape.get("tied", False),
    )
