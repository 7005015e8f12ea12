"""config.json, read with its types checked: a stranger wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError

# Larger than any honest tokenizer or shard index; a bound on what is read into memory.
_MAX_FILE_BYTES = 256 * 1024 * 1024
# Widths, depths and vocabularies beyond this are a damaged or hostile file.
_MAX_SIZE = 1 << 31


def require_folder(folder: Path) -> None:
    """Raises CheckpointError unless `folder` is one."""
    try:
        if folder.is_dir():
            return
    except OSError as error:
        raise CheckpointError(f"cannot read {folder}: {error.strerror}") from None
    raise CheckpointError(f"{folder} is not a folder")


def read_bytes(path: Path) -> bytes:
    """The whole of one of a checkpoint's smaller files. Raises CheckpointError."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise CheckpointError(f"{path} is too large to be a {path.name}")
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"no {path.name} in {path.parent}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The same as text in UTF-8. Raises CheckpointError."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not text in UTF-8") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises CheckpointError if it is missing or is anything else."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


class Config:
    """The hyperparameters of a text model, by Hugging Face's names.

    Multimodal checkpoints keep theirs under `text_config`; those are lifted to the top.
    """

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        text = values.get("text_config")
        self._values: dict[str, Any] = {**values, **(text if isinstance(text, dict) else {})}
        self._path = path
        names = values.get("architectures")
        self.architecture: str | None = (
            names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
        )

    @classmethod
    def load(cls, folder: Path) -> Config:
        """The configuration of the checkpoint in `folder`. Raises CheckpointError."""
        require_folder(folder)
        path = folder / "config.json"
        return cls(read_json(path), path)

    def get(self, key: str) -> Any:
        """The value as it stands, None where it is absent or null."""
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number. Raises CheckpointError."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MAX_SIZE:
            raise self.error(key, value, "a positive whole number")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number. Raises CheckpointError."""
        return self.number_in(self._values, key, default)

    def number_in(
        self, mapping: Mapping[str, Any], key: str, default: float | None = None
    ) -> float:
        """A finite number out of a nested object. Raises CheckpointError."""
        value = mapping.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
            raise self.error(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false. Raises CheckpointError."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """A nested object, empty where it is absent. Raises CheckpointError."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        return value

    def error(self, key: str, value: Any, wanted: str) -> CheckpointError:
        """The complaint that `key` is not what it should be, ready to be raised."""
        if value is None:
            return CheckpointError(f"{self._path} lacks {key!r}")
        return CheckpointError(f"{self._path}: {key!r} is {str(value)[:60]!r}, not {wanted}")
