"""Tokenizer files of a checkpoint -> the vocabulary of a GGUF file.

Two kinds: byte-level BPE (GGUF's "gpt2": Llama 3, Qwen, the embedded trio) and SentencePiece BPE
with byte fallback (GGUF's "llama": Llama 2, Gemma).
"""

from __future__ import annotations

from pathlib import Path

from . import bpe, sentencepiece
from .config import Config
from .tokenizer_files import TokenizerFiles
from .vocab import Vocabulary


def read_vocabulary(folder: Path, config: Config, pre: str | None = None) -> Vocabulary:
    """The vocabulary of the checkpoint in `folder`, one entry for each embedding row.

    `pre` names llama.cpp's pre-tokenizer and overrules the recognition. Raises TokenizerError.
    """
    files = TokenizerFiles(folder)
    if sentencepiece.is_sentencepiece(files):
        vocabulary = sentencepiece.read(files, config)
        if pre is not None:
            vocabulary.notes.append(
                f"--pre {pre} is without effect: the tokenizer is SentencePiece"
            )
    else:
        vocabulary = bpe.read(files, config, pre)
    vocabulary.check()
    vocabulary.notes += [*files.notes, *files.notes_on_dropped(), *vocabulary.special.notes]
    return vocabulary
