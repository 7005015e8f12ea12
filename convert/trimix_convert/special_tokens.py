"""Beginnings, ends and the chat template: from the tokenizer files to GGUF's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gguf import GGUFWriter, TokenType

from .chat_template import ChatTemplate, read_chat_template
from .config import Config, read_json
from .errors import ConversionError
from .tokenizer_files import KINDS, AddedToken, TokenizerFiles, token_text

# The texts that llama.cpp takes for ends of generation by itself (llama-vocab.cpp).
_KNOWN_ENDS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
        "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>", "_<EOT>",
        "[EOT]", "[EOS]", "</s>", "<eos>", "<end_of_utterance>",
    }
)  # fmt: skip


@dataclass
class SpecialTokens:
    """Ids by kind ("bos", "eos", ...), whether a tokenizer adds them, and the chat template."""

    ids: dict[str, int] = field(default_factory=dict)
    adds: dict[str, bool] = field(default_factory=dict)
    chat_template: ChatTemplate | None = None
    notes: list[str] = field(default_factory=list)

    def write(self, writer: GGUFWriter) -> None:
        """Add the ids, flags and template to the writer, where GGUF has a key for them."""
        for kind, token_id in self.ids.items():
            add_id = getattr(writer, f"add_{kind}_token_id", None)
            if add_id is not None:
                add_id(token_id)
        for kind, value in self.adds.items():
            add_flag = getattr(writer, f"add_add_{kind}_token", None)
            if add_flag is not None:
                add_flag(value)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def read_special_tokens(
    files: TokenizerFiles,
    config: Config,
    tokens: Sequence[str],
    types: list[TokenType],
    added: Mapping[int, AddedToken],
) -> SpecialTokens:
    """Special tokens of a checkpoint: the tokenizer's files name them, config.json numbers them.

    Ends that only generation_config.json lists, and whose text llama.cpp would not recognise,
    become GGUF's end-of-turn and end-of-message tokens. A token of the vocabulary that the files
    name as an end, or among further special tokens, becomes a control token in `types`.
    """
    texts = {kind: token_text(files.config.get(f"{kind}_token")) for kind in KINDS}
    special = SpecialTokens(chat_template=read_chat_template(files))
    special.adds = _added_by_post_processor(files, texts)
    by_text = {text: i for i, text in enumerate(tokens) if types[i] is not TokenType.UNUSED}
    by_text |= {token.text: token.id for token in added.values()}
    for kind in KINDS:
        flag = files.config.get(f"add_{kind}_token")
        if isinstance(flag, bool):
            special.adds.setdefault(kind, flag)
        token_id = by_text.get(texts[kind]) if texts[kind] else None
        if token_id is None:
            token_id = config.get(f"{kind}_token_id")
        if isinstance(token_id, list):  # several ends: the others are taken care of below
            token_id = next(iter(token_id), None)
        if isinstance(token_id, int) and 0 <= token_id < len(tokens):
            special.ids[kind] = token_id
    _add_other_ends(special, files, config, tokens)
    for text in files.named_ends() | files.named_lists():
        token_id = by_text.get(text)
        if token_id is not None and types[token_id] is TokenType.NORMAL:
            types[token_id] = TokenType.CONTROL
    return special


def _added_by_post_processor(files: TokenizerFiles, texts: dict[str, str]) -> dict[str, bool]:
    """Whether encoding adds `bos` and `eos`, from tokenizer.json's post-processor.

    A token that it adds and tokenizer_config.json does not name is named in `texts`.
    """
    post_processor = files.tokenizer.get("post_processor")
    if not isinstance(post_processor, dict):
        return {}
    adds: dict[str, bool] = {}
    steps = post_processor.get("processors")
    for step in steps if isinstance(steps, list) else [post_processor]:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "ByteLevel":
            adds.setdefault("bos", False)
            adds.setdefault("eos", False)
        elif kind == "TemplateProcessing":
            adds.update(_added_by_template(step.get("single"), texts))
    return adds


def _added_by_template(single: Any, texts: dict[str, str]) -> dict[str, bool]:
    """What a TemplateProcessing puts around one sequence."""
    if not isinstance(single, list) or len(single) < 2:
        return {}
    adds: dict[str, bool] = {}
    for kind, piece in (("bos", single[0]), ("eos", single[-1])):
        token = piece.get("SpecialToken") if isinstance(piece, dict) else None
        if isinstance(token, dict) and isinstance(token.get("id"), str):
            texts[kind] = texts[kind] or token["id"]
            adds[kind] = token["id"] == texts[kind]
    return adds


def _add_other_ends(
    special: SpecialTokens, files: TokenizerFiles, config: Config, tokens: Sequence[str]
) -> None:
    path = files.folder / "generation_config.json"
    ends: Any = config.get("eos_token_id")
    if path.is_file():
        try:
            ends = read_json(path).get("eos_token_id", ends)
        except ConversionError:  # advice on sampling, not part of the model
            return
    unknown = [
        token_id
        for token_id in (ends if isinstance(ends, list) else [ends])
        if isinstance(token_id, int)
        and 0 <= token_id < len(tokens)
        and token_id != special.ids.get("eos")
        and tokens[token_id] not in _KNOWN_ENDS
    ]
    unknown = list(dict.fromkeys(unknown))
    for kind, token_id in zip(("eot", "eom"), unknown, strict=False):
        special.ids[kind] = token_id
    if len(unknown) > 2:
        special.notes.append(
            "left out: ends of generation beyond the three that GGUF has keys for: "
            + ", ".join(repr(tokens[token_id][:40]) for token_id in unknown[2:7])
        )
