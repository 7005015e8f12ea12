"""The tokenizer files of a checkpoint, read once and laid over one another as transformers does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import read_json
from .errors import TokenizerError

#: The kinds of special tokens that transformers has names for.
KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

_LISTS = ("additional_special_tokens", "extra_special_tokens")
_MAP_KEYS = (*(f"{kind}_token" for kind in KINDS), *_LISTS)
# Kinds of tokens that end a text; the last two are names that some checkpoints add.
_ENDS = ("eos_token", "eot_token", "eom_token")
# How an added token treats what stands beside it, for which llama.cpp has no words.
_DROPPED = {
    "lstrip": "take in the spaces before them",
    "rstrip": "take in the spaces after them",
    "single_word": "count only as whole words",
}


@dataclass(frozen=True)
class AddedToken:
    """A token from outside the model's own vocabulary, matched before any merging."""

    id: int
    text: str
    special: bool

    @property
    def is_control(self) -> bool:
        """Whether it steers rather than writes. Some checkpoints forget to say so (Gemma)."""
        return (
            self.special
            or self.text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
            or (self.text.startswith("<|") and self.text.endswith("|>"))
            or (self.text.startswith("<unused") and self.text.endswith(">"))
        )


class TokenizerFiles:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json of one checkpoint.

    `config` is tokenizer_config.json with special_tokens_map.json laid over it. Transformers
    reads that older file only where tokenizer_config.json lists no added tokens, and then
    prefers it; where it does list them, the map only fills gaps here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.tokenizer = self._read("tokenizer.json")
        self.config = self._read("tokenizer_config.json")
        self._dropped: dict[str, list[str]] = {}
        self._lay_map_over_config()

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return read_json(path) if path.is_file() else {}

    def _lay_map_over_config(self) -> None:
        named = self._read("special_tokens_map.json")
        wins = "added_tokens_decoder" not in self.config
        for key in _MAP_KEYS:
            value, present = named.get(key), self.config.get(key)
            if not value or (present and not wins):
                continue
            if present and key not in _LISTS and token_text(value) != token_text(present):
                self.notes.append(
                    f"special_tokens_map.json and tokenizer_config.json differ about {key!r}: "
                    f"{token_text(value)[:40]!r} is taken, as transformers does"
                )
            self.config[key] = value
        for key in _MAP_KEYS:
            value = self.config.get(key)
            for entry in value if isinstance(value, list) else [value]:
                self._remember_dropped(entry)

    def model(self) -> dict[str, Any]:
        """The `model` of tokenizer.json, a BPE one. Raises TokenizerError."""
        if not self.tokenizer:
            raise TokenizerError(
                f"no tokenizer in {self.folder}: expected tokenizer.json or tokenizer.model"
            )
        model = self.tokenizer.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise self.malformed("tokenizer.json", "no vocabulary in it")
        if model.get("type", "BPE") != "BPE":
            raise self.malformed("tokenizer.json", f"{model.get('type')!r:.40} is not BPE")
        return model

    def added_tokens(self) -> dict[int, AddedToken]:
        """Added tokens by id: tokenizer.json's, then those only the smaller files know.

        A token that the files name as an end of text is special whatever its entry says;
        added_tokens.json says nothing, there all the names count. Raises TokenizerError.
        """
        found: dict[int, AddedToken] = {}
        ends, named = self.named_ends(), self.named_special()
        listed = self.tokenizer.get("added_tokens") or []
        decoder = self.config.get("added_tokens_decoder") or {}
        try:
            entries = [(entry["id"], entry) for entry in listed]
            entries += [(int(key), entry) for key, entry in decoder.items()]
            entries += [
                (token_id, {"content": text, "special": text in named})
                for text, token_id in self._read("added_tokens.json").items()
            ]
            for token_id, entry in entries:
                text = entry["content"]
                if not isinstance(token_id, int) or not isinstance(text, str) or token_id < 0:
                    raise ValueError
                special = bool(entry.get("special")) or text in ends
                found.setdefault(token_id, AddedToken(token_id, text, special))
                self._remember_dropped(entry)
        except (TypeError, KeyError, ValueError, AttributeError):
            raise self.malformed("tokenizer.json", "an added token lacks id or content") from None
        return found

    def named_ends(self) -> set[str]:
        """The texts that the files name as ends of text."""
        return {token_text(self.config.get(key)) for key in _ENDS} - {""}

    def named_lists(self) -> set[str]:
        """The texts that the files list as further special tokens."""
        names: list[Any] = []
        for key in _LISTS:
            listed = self.config.get(key)
            if isinstance(listed, dict):
                names += listed.values()
            elif isinstance(listed, list):
                names += listed
        return {token_text(name) for name in names} - {""}

    def named_special(self) -> set[str]:
        """The texts that the files name as special tokens of any kind."""
        names = {token_text(self.config.get(f"{kind}_token")) for kind in KINDS}
        return (names | self.named_lists() | self.named_ends()) - {""}

    def _remember_dropped(self, entry: Any) -> None:
        text = token_text(entry)
        for flag in _DROPPED:
            if text and isinstance(entry, dict) and entry.get(flag) is True:
                texts = self._dropped.setdefault(flag, [])
                if text not in texts:
                    texts.append(text)

    def notes_on_dropped(self) -> list[str]:
        """A sentence for each property of added tokens that GGUF can't hold."""
        notes = []
        for flag, texts in self._dropped.items():
            shown = ", ".join(repr(text[:40]) for text in texts[:5])
            more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
            notes.append(
                f"left out: {flag!r} of {shown}{more}, which {_DROPPED[flag]} "
                "in Hugging Face's tokenizers and not in llama.cpp"
            )
        return notes

    def malformed(self, name: str, what: str) -> TokenizerError:
        """The complaint about one of the files, ready to be raised."""
        return TokenizerError(f"cannot use {self.folder / name}: {what}")


def token_text(entry: Any) -> str:
    """The text of a token entry, which is a string or an object with `content`; "" for others."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else ""
