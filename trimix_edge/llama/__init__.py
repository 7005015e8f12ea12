"""The only place that calls llama.cpp: owners of its objects, and their errors."""

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
