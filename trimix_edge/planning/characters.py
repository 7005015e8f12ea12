"""How much text a token is: tokens a second mean little in a language that takes many of them."""

from __future__ import annotations

from pathlib import Path

from trimix_edge.errors import PromptError
from trimix_edge.llama.model import LlamaModel

MAX_CHARACTERS = 100_000
"""Of a sample, that are counted: more do not change the figure."""


def characters_per_token(path: Path, sample: str) -> float:
    """Characters of a text over the tokens that a model's tokenizer makes of it.

    Args:
        path: a GGUF file, of which only the vocabulary is read.

    Raises:
        PromptError: the text is empty.
        ModelLoadError: the file can't be read.
    """
    text = sample.strip()[:MAX_CHARACTERS]
    if not text:
        raise PromptError("sample: there is no text in it")
    with LlamaModel(path, vocab_only=True) as model:
        return len(text) / max(1, len(model.vocab.tokenize(text)))
