"""The chat template of a checkpoint, or several of them by name, from where Hugging Face looks."""

from __future__ import annotations

import re
from typing import Any

from .config import read_json, read_text
from .tokenizer_files import TokenizerFiles

#: One template, or several as GGUF's writer takes them: objects with `name` and `template`.
ChatTemplate = str | list[dict[str, str]]

_DEFAULT = "default"
_FOLDER = "additional_chat_templates"


def read_chat_template(files: TokenizerFiles) -> ChatTemplate | None:
    """The templates of a checkpoint. Raises CheckpointError for a file that is no text.

    Files come first: chat_template.jinja, and by name those in `additional_chat_templates`.
    Then comes what tokenizer_config.json holds, then chat_template.json, as in transformers.
    """
    found: dict[str, str] = {}
    for path in sorted(files.folder.glob(f"{_FOLDER}/*.jinja")):
        found[path.stem] = read_text(path)
    jinja, as_json = files.folder / "chat_template.jinja", files.folder / "chat_template.json"
    if jinja.is_file():
        found[_DEFAULT] = read_text(jinja)
    inside: Any = files.config.get("chat_template")
    if inside is None and not found and as_json.is_file():
        inside = read_json(as_json).get("chat_template")
    within = _by_name(inside)
    # GGUF's keys have letters, digits and "_" alone; of two names that become one, the first stays.
    keys: dict[str, str] = {}
    for name, template in (*found.items(), *within.items()):
        keys.setdefault(re.sub("[^0-9A-Za-z]", "_", name), template)
    if set(keys) <= {_DEFAULT}:
        return keys.get(_DEFAULT) or None
    return [{"name": name, "template": template} for name, template in keys.items()]


def _by_name(template: Any) -> dict[str, str]:
    """The templates that a JSON file holds: one string, or a list of named ones."""
    if isinstance(template, str):
        return {_DEFAULT: template}
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    return {
        entry["name"]: entry["template"]
        for entry in (template if isinstance(template, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }
