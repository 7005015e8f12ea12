"""The only place that calls llama.cpp: owners of its objects, and their errors."""

import os

# The threads of GCC's OpenMP wait for each other in a loop. Where another program has taken a core
# they would go round in it until it gives the core back, hundreds of times a token: let them sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from trimix_edge.llama.backend import BackendInfo, backend_info
from trimix_edge.llama.context import LlamaContext
from trimix_edge.llama.model import LlamaModel
from trimix_edge.llama.sampler import Sampler
from trimix_edge.llama.vocab import Vocab, shared_vocab_size

__all__ = [
    "BackendInfo",
    "LlamaContext",
    "LlamaModel",
    "Sampler",
    "Vocab",
    "backend_info",
    "shared_vocab_size",
]
