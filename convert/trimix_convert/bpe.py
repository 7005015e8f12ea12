"""Byte-level BPE: tokenizer.json -> GGUF's "gpt2" vocabulary.

GGUF stores no regular expression, only the name of a pre-tokenizer that llama.cpp has compiled
in; the name is recognised from tokenizer.json's own expression. A wrong name would go unnoticed
and silently change every token, so an unknown expression is an error.
"""

from __future__ import annotations

from typing import Any

from .config import Config
from .errors import TokenizerError
from .normalizer import read_normalizer
from .special_tokens import read_special_tokens
from .tokenizer_files import TokenizerFiles
from .vocab import Vocabulary, place_tokens

# Published regular expressions -> names in llama.cpp's llama-vocab.cpp.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS: dict[str, str] = {
    rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}": "qwen2",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen35",
}
# llama.cpp takes a whole word that is a token as that token, merges or not, for these alone.
_IGNORE_MERGES = frozenset({"llama-bpe"})


def read(files: TokenizerFiles, config: Config, pre: str | None) -> Vocabulary:
    """The vocabulary of a byte-level BPE tokenizer.json. Raises TokenizerError."""
    model = files.model()
    pre = pre or recognise_pre_tokenizer(files, model)
    added = files.added_tokens()
    n_vocab = config.integer("vocab_size")
    tokens, types = place_tokens(files, model["vocab"], added, n_vocab)
    special = read_special_tokens(files, config, tokens, types, added)
    # What is not said here llama.cpp assumes: for `bos` and `eos` the id 11, an ordinary token,
    # and for Llama 3's pre-tokenizer that encoding starts with `bos`.
    if "eos" not in special.ids:
        raise files.malformed("tokenizer_config.json", "no end of text, no 'eos_token', is named")
    special.ids.setdefault("bos", special.ids["eos"])
    special.adds.setdefault("bos", False)
    normalizer, note = read_normalizer(files.tokenizer.get("normalizer"), spaces=False)
    return Vocabulary(
        model="gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        special=special,
        merges=_merges(files, model),
        normalizer=normalizer,
        notes=[note] if note else [],
    )


def recognise_pre_tokenizer(files: TokenizerFiles, model: dict[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json. Raises TokenizerError."""
    expression = _expression(files.tokenizer.get("pre_tokenizer"))
    name = PRE_TOKENIZERS.get(expression) if expression else None
    if expression == "":
        name = "gpt-2"
    if name is None:
        raise TokenizerError(
            f"unknown pre-tokenizer in {files.folder / 'tokenizer.json'}: {expression!r}; "
            "say which of llama.cpp's it is with --pre NAME"
        )
    if bool(model.get("ignore_merges")) != (name in _IGNORE_MERGES):
        raise TokenizerError(
            f"{files.folder / 'tokenizer.json'} has the pre-tokenizer {name} with 'ignore_merges' "
            f"{bool(model.get('ignore_merges'))}, unlike llama.cpp's: overrule with --pre NAME"
        )
    return name


def _expression(pre_tokenizer: Any) -> str | None:
    """The splitting expression before a byte-level step; "" is GPT-2's, built in; None unknown."""
    if not isinstance(pre_tokenizer, dict):
        return None
    steps = [pre_tokenizer]
    if pre_tokenizer.get("type") == "Sequence":
        inner = pre_tokenizer.get("pretokenizers")
        steps = inner if isinstance(inner, list) else []
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps]
    if kinds == ["ByteLevel"]:
        plain = not steps[0].get("add_prefix_space") and steps[0].get("use_regex", True)
        return "" if plain else None
    if kinds != ["Split", "ByteLevel"]:
        return None
    split, byte_level = steps
    pattern = split.get("pattern")
    if (
        not isinstance(pattern, dict)
        or split.get("behavior") not in ("Isolated", "Removed")
        or (split.get("behavior") == "Removed") != bool(split.get("invert"))
        or byte_level.get("add_prefix_space")
        or byte_level.get("use_regex", True)
    ):
        return None
    expression = pattern.get("Regex")
    return expression if isinstance(expression, str) else None


def _merges(files: TokenizerFiles, model: dict[str, Any]) -> list[str]:
    """Merges as "left right"; a space inside a part is written as GPT-2's byte for it, "Ġ"."""
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        raise files.malformed("tokenizer.json", "no merges in it")
    lines: list[str] = []
    for merge in merges:
        if isinstance(merge, str):
            lines.append(merge)
        elif (
            isinstance(merge, list)
            and len(merge) == 2
            and all(isinstance(part, str) for part in merge)
        ):
            lines.append(" ".join(part.replace(" ", "Ġ") for part in merge))
        else:
            raise files.malformed("tokenizer.json", f"merge {merge!r:.60} is not a pair")
    return lines
