"""How long llama.cpp takes for one token and for a batch, with nothing else around it."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter

import llama_cpp

from trimix_edge.errors import ContextError
from trimix_edge.llama.backend import collected_errors, physical_cores, reason
from trimix_edge.llama.model import LlamaModel


def decode_seconds(
    path: Path,
    n_vocab: int,
    sizes: tuple[int, ...],
    *,
    seconds: float,
    threads: int = 0,
    repack: bool = True,
    all_rows: bool = False,
) -> dict[int, float]:
    """Time ``llama_decode`` for batches of the given sizes.

    Args:
        path: a model; its vocabulary is not looked at.
        n_vocab: tokens of its vocabulary.
        sizes: tokens of the batches, each at most 512.
        seconds: each size is repeated for about as long, at least three times.
        threads: 0 for one a physical core.
        repack: see :class:`LlamaModel`.
        all_rows: ask for the logits of all tokens, not of the last one alone: without them,
            llama.cpp leaves out most of the last layer.

    Returns:
        Seconds of a batch, by its size: the median.

    Raises:
        ModelLoadError, ContextError: llama.cpp can't load the model, or compute with it.
    """
    with LlamaModel(path, n_vocab=n_vocab, repack=repack) as model:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(sizes)
        params.n_seq_max = 1
        params.n_outputs_max = max(sizes) if all_rows else 1
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        params.no_perf = True
        with collected_errors() as errors:
            context = llama_cpp.llama_init_from_model(model.pointer, params)
        if not context:
            raise ContextError(f"{path.name}: llama.cpp makes no context: {reason(errors)}")
        batch = llama_cpp.llama_batch_init(max(sizes), 0, 1)
        try:
            return {n: _time(context, batch, n, seconds, all_rows) for n in sizes}
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)


def _time(
    context: object,
    batch: llama_cpp.llama_batch,
    n: int,
    seconds: float,
    all_rows: bool,
) -> float:
    memory = llama_cpp.llama_get_memory(context)
    batch.n_tokens = n
    for i in range(n):
        batch.token[i], batch.pos[i], batch.logits[i] = i % 64, i, all_rows or i == n - 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    found: list[float] = []
    spent = 0.0
    while len(found) < 4 or spent < seconds:
        llama_cpp.llama_memory_clear(memory, False)
        start = perf_counter()
        code = llama_cpp.llama_decode(context, batch)
        found.append(perf_counter() - start)
        spent += found[-1]
        if code != 0:
            raise ContextError(f"llama.cpp could not compute a batch of {n} tokens (code {code})")
    return median(found[1:])  # the first one warms up
