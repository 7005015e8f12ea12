"""From the Hugging Face Hub to GGUF files: checkpoints, presets, and whole trios."""

from trimix_edge.hub.client import HubId, Progress
from trimix_edge.hub.make import MadeGguf, make_gguf
from trimix_edge.hub.presets import DEFAULT_QUANTIZATION, Preset, find_preset, presets, presets_for
from trimix_edge.hub.pull import PulledModel, PullReport, pull

__all__ = [
    "DEFAULT_QUANTIZATION",
    "HubId",
    "MadeGguf",
    "Preset",
    "Progress",
    "PullReport",
    "PulledModel",
    "find_preset",
    "make_gguf",
    "presets",
    "presets_for",
    "pull",
]
