"""A library's messages name parameters; the command line's name flags."""

from __future__ import annotations

import re
from dataclasses import fields

from trimix_edge.config import SamplingParams

_RENAMED = {
    "n_ctx": "--ctx",
    "n_batch": "--batch",
    "n_threads": "--threads",
    "n_parallel": "--parallel",
}
_PARAMETERS = {
    **{f.name: f"--{f.name.replace('_', '-')}" for f in fields(SamplingParams) if "_" in f.name},
    **{
        name: f"--{name.replace('_', '-')}"
        for name in ("kv_type", "gpu_layers", "max_tokens", "rpc_split")
    },
    **_RENAMED,
}


def name_flags(message: str) -> str:
    """A library's message with its parameters named as on the command line; a manifest's keys are
    called what they are there."""
    if ".toml" in message:
        return message
    names = "|".join(_PARAMETERS)
    message = re.sub(rf"\b({names})\b", lambda found: _PARAMETERS[found[1]], message)
    return re.sub(
        r"(\w+) is needed and has no file: name one",
        lambda found: f"{found[0]} with --{found[1].replace('_', '-')}",
        message,
    )
