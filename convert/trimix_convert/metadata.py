"""`general.*`: name, size, licence, languages and base models, from the model card and the folder.

gguf's own heuristics do the reading. A model card is prose by a stranger: whatever in it is
broken or of the wrong type is left out, and never stops a conversion.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, GGUFWriter, Metadata, size_label

from .config import read_json
from .errors import CheckpointError

_MAX_CARD_BYTES = 1024 * 1024


def write_model_card(writer: GGUFWriter, folder: Path, n_parameters: int) -> str | None:
    """Add the `general.*` keys; the returned sentence says why the card was ignored, if it was.

    `n_parameters` is negative for an adapter, as in gguf's own naming.
    """
    folder = folder.resolve()
    note = None
    try:
        card = folder / "README.md"
        if card.is_file() and card.stat().st_size > _MAX_CARD_BYTES:
            raise ValueError("it is too large")
        metadata = Metadata.load(None, folder, None, n_parameters)
    except Exception as error:  # YAML by a stranger, read by heuristics: anything may happen
        note = f"README.md is ignored: {str(error).splitlines()[0] if str(error) else error!r}"
        metadata = Metadata()
    if folder.parent.name == "snapshots":
        _forget_commit(metadata, folder)
    metadata.name = metadata.name or folder.name
    if metadata.sampling_penalty_repeat is None:  # gguf before 0.20 overlooks Hugging Face's name
        metadata.sampling_penalty_repeat = _generation_config(folder).get("repetition_penalty")
    if metadata.size_label is None and n_parameters > 0:
        metadata.size_label = size_label(n_parameters, n_parameters, 0, 0)
    # A writer of its own: only values that have the type of their key are taken over.
    scratch = GGUFWriter(None, writer.arch)
    try:
        metadata.set_gguf_meta_model(scratch)
    except Exception as error:
        note = note or f"README.md is ignored in part: {error}"
    for key, entry in scratch.kv_data[0].items():
        if key not in writer.kv_data[0] and _fits(entry.value, entry.type):
            writer.add_key_value(key, entry.value, entry.type, entry.sub_type)
    return note


def _forget_commit(metadata: Metadata, folder: Path) -> None:
    """Hugging Face's cache keeps `models--OWNER--NAME/snapshots/COMMIT`: name it NAME instead."""
    for field in ("name", "basename", "finetune"):
        if str(getattr(metadata, field)).lower() == folder.name.lower():
            setattr(metadata, field, None)
    metadata.name = metadata.name or folder.parent.parent.name.rpartition("--")[2]


def _is_clean(text: str) -> bool:
    """Whether C and UTF-8 can hold the text: no null characters, no stray surrogates."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _generation_config(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "generation_config.json")
    except CheckpointError:
        return {}


def _fits(value: Any, kind: GGUFValueType) -> bool:
    """Whether the value can be stored under the type that its key has."""
    if kind is GGUFValueType.STRING:
        return isinstance(value, str) and _is_clean(value)
    if kind is GGUFValueType.ARRAY:
        return isinstance(value, list) and all(
            isinstance(item, str) and _is_clean(item) for item in value
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind is GGUFValueType.FLOAT32:
        return math.isfinite(value) and abs(value) < 1e38
    low = 0 if kind is GGUFValueType.UINT32 else -(2**31)
    return isinstance(value, int) and low <= value < 2**31
