"""TriMix on small machines: three quantised models, one voice.

    from trimix_edge import TriMix

    with TriMix.load("dzongkha") as trimix:
        for chunk in trimix.stream("Save the file."):
            print(chunk.text, end="", flush=True)

Importing this package is cheap: llama.cpp and Numba load with the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimix_edge.config import (
        ContextParams,
        Draft,
        FusionWeights,
        Plausibility,
        Role,
        RuleChoice,
        SamplingParams,
    )
    from trimix_edge.decoding.chat import Message
    from trimix_edge.decoding.options import GenerationOptions
    from trimix_edge.decoding.run import Generation, GenerationChunk, Run
    from trimix_edge.decoding.scoring import Score, TokenScores
    from trimix_edge.decoding.sequence import DraftCounts, FinishReason, Timings
    from trimix_edge.decoding.stream import Stream
    from trimix_edge.errors import TriMixError
    from trimix_edge.llama import BackendInfo, backend_info
    from trimix_edge.trimix import TriMix
    from trimix_edge.trios.manifest import TrioManifest
    from trimix_edge.weights import ScriptChoice, WeightChoice

__version__ = "0.1.0"

__all__ = [
    "BackendInfo",
    "ContextParams",
    "Draft",
    "DraftCounts",
    "FinishReason",
    "FusionWeights",
    "Generation",
    "GenerationChunk",
    "GenerationOptions",
    "Message",
    "Plausibility",
    "Role",
    "RuleChoice",
    "Run",
    "SamplingParams",
    "Score",
    "ScriptChoice",
    "Stream",
    "Timings",
    "TokenScores",
    "TriMix",
    "TriMixError",
    "TrioManifest",
    "WeightChoice",
    "backend_info",
]

_HOMES = {
    "decoding.chat": ("Message",),
    "config": (
        "ContextParams",
        "Draft",
        "FusionWeights",
        "Plausibility",
        "Role",
        "RuleChoice",
        "SamplingParams",
    ),
    "errors": ("TriMixError",),
    "decoding.options": ("GenerationOptions",),
    "decoding.run": ("Generation", "GenerationChunk", "Run"),
    "llama": ("BackendInfo", "backend_info"),
    "trios.manifest": ("TrioManifest",),
    "decoding.scoring": ("Score", "TokenScores"),
    "decoding.sequence": ("DraftCounts", "FinishReason", "Timings"),
    "decoding.stream": ("Stream",),
    "trimix": ("TriMix",),
    "weights": ("ScriptChoice", "WeightChoice"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
