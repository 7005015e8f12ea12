"""The ``trio.toml`` that a pull writes: commented, for people to change."""

from __future__ import annotations

import json
from collections.abc import Mapping

from trimix_edge.config import Role
from trimix_edge.hub.presets import Preset


def trio_toml(
    preset: Preset, quantization: str, names: Mapping[Role, str], normalizer: str | None = None
) -> str:
    """The manifest of a pulled trio.

    Args:
        names: the file of each role, beside the manifest.
        normalizer: the Unicode normal form that the tokenizer wants, if it is known.
    """
    models = {role: model.hub_id.name for role, model in preset.models.items()}
    lines = [
        f"# trimix-edge pull {preset.name} --quant {quantization}",
        *(
            f"# {role}: {model.hub_id.page}, licence {model.license}"
            for role, model in preset.models.items()
        ),
        f"name = {_quoted(preset.name)}",
        f"description = {_quoted(f'{preset.language_name}: ' + ', '.join(models.values()))}",
        f'script = {_quoted(preset.script)}  # of its language: what weights = "auto" looks at',
        *([f"normalizer = {_quoted(normalizer)}"] if normalizer else []),
        "",
        "[models]",
        *(f"{role} = {_quoted(name)}" for role, name in names.items()),
        "",
        "[fusion]",
        *_weights(preset),
    ]
    return "\n".join(lines) + "\n"


def _weights(preset: Preset) -> list[str]:
    chosen = preset.weights
    pair = f"weights = [{chosen.large_ins:g}, {chosen.small_cpt:g}]  # large_ins, small_cpt"
    if not preset.task_weights:
        return ["# None are published for these models: the commonest pair of the paper.", pair]
    return [
        f"# Published by the paper's authors, for prompts in {preset.prompt_language!r}:",
        *(
            f"#   {task}: {weights.large_ins:g}, {weights.small_cpt:g}"
            for task, weights in preset.task_weights.items()
        ),
        pair,
    ]


def _quoted(text: str) -> str:
    """A TOML string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)
