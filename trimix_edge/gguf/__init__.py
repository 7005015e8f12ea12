"""GGUF files that a stranger may have made: one bounded reader for all of them.

split.py    the files of a model that comes in several parts, and what tells it from other models
window.py   a file read from its front, a piece in memory
reader.py   the head of every part: metadata and tensor infos, nothing believed
checks.py   what would end the process inside llama.cpp is refused
shape.py    the sizes that memory depends on
"""

from trimix_edge.gguf.checks import check_header
from trimix_edge.gguf.reader import GgufFile, LongArray, Opener, TensorInfo, read_gguf
from trimix_edge.gguf.shape import (
    DEFAULT_N_CTX,
    KV_BYTES,
    MAX_READ_ROWS,
    MAX_ROWS,
    ModelShape,
    n_tokens,
)
from trimix_edge.gguf.split import fingerprint, n_file_bytes, part_paths
from trimix_edge.gguf.window import Source

__all__ = [
    "DEFAULT_N_CTX",
    "KV_BYTES",
    "MAX_READ_ROWS",
    "MAX_ROWS",
    "GgufFile",
    "LongArray",
    "ModelShape",
    "Opener",
    "Source",
    "TensorInfo",
    "check_header",
    "fingerprint",
    "n_file_bytes",
    "n_tokens",
    "part_paths",
    "read_gguf",
]
