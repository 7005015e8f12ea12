"""Known text through one model, in chunks: each is read from an empty memory.

llama.cpp's tools measure a model in this way (``tools/imatrix``, ``tools/perplexity``): a text's
tokens are cut into chunks of one size, and where the vocabulary wants BOS it takes the place of a
chunk's first token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import psutil

from trimix_edge.errors import ContextError, DecodeError
from trimix_edge.files import megabytes
from trimix_edge.llama.backend import (
    collected_errors,
    deferred_interrupt,
    physical_cores,
    reason,
)
from trimix_edge.llama.model import LlamaModel
from trimix_edge.llama.vocab import Vocab

SMALLEST = 32
"""Tokens in the smallest batch; llama.cpp's collector looks at batches of 16 and more."""

_LARGEST = 512
_LOGITS = 1 << 25
"""Logits that one batch may ask for, 128 MB; llama.cpp keeps two copies."""

OnNode = Callable[[int, bool], bool]
"""Called with the address of a ``ggml_tensor`` and ``ask``: whether its data is wanted, or there.
In a question True asks for the data; in an answer False ends the computation."""

OnRows = Callable[[int, npt.NDArray[np.float32]], None]
"""Called with the position in the chunk of the first row, and the rows, ``[n_rows, n_vocab]``,
valid until it returns."""


def chunks_of(vocab: Vocab, tokens: Sequence[int], size: int) -> list[list[int]]:
    """Whole chunks of ``size`` tokens; what is left over at the end is dropped."""
    chunks = [list(tokens[i : i + size]) for i in range(0, len(tokens) - size + 1, size)]
    if vocab.adds_bos:
        for chunk in chunks:
            chunk[0] = vocab.bos
    return chunks


class ChunkRunner:
    """Owner of a ``llama_context`` for chunks of text. Close it before its model.

    Args:
        size: tokens of the longest chunk.
        threads: 0 for one a physical core.
        on_node: hears of every node of the computation (``cb_eval``). It may raise.

    Raises:
        ContextError: the context does not fit into memory, or llama.cpp refuses it.
    """

    def __init__(
        self, model: LlamaModel, size: int, *, threads: int = 0, on_node: OnNode | None = None
    ) -> None:
        self._model = model
        self._pointer: Any = None
        self._failed: list[BaseException] = []
        self._interrupted: Callable[[], bool] = lambda: False
        self.n_batch = _LARGEST
        while self.n_batch > SMALLEST and self.n_batch * model.n_vocab > _LOGITS:
            self.n_batch //= 2
        self.n_batch = min(self.n_batch, size)
        need = model.kv_elements(size) * 2 + 2 * 4 * self.n_batch * model.n_vocab
        available = psutil.virtual_memory().available
        if need > available and not model.is_offloaded:
            raise ContextError(
                f"{model.path.name}: chunks of {size} tokens need {megabytes(need)} beside the "
                f"weights, {megabytes(available)} are free: choose smaller chunks"
            )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = size
        params.n_batch = params.n_ubatch = params.n_outputs_max = self.n_batch
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        params.swa_full = False
        params.no_perf = True
        # llama.cpp keeps bare pointers to these: they live as long as its context.
        self._on_abort = llama_cpp.ggml_abort_callback(self._is_stopped)
        params.abort_callback = self._on_abort
        if on_node is not None:
            self._on_node = llama_cpp.ggml_backend_sched_eval_callback(self._guarded(on_node))
            params.cb_eval = self._on_node
        with collected_errors() as errors, deferred_interrupt():
            self._pointer = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self._pointer:
            raise ContextError(
                f"{model.path}: llama.cpp could not make a context of {size} tokens: "
                f"{reason(errors) or 'it gives no reason'}"
            )
        self._memory = llama_cpp.llama_get_memory(self._pointer)
        self._batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        for i in range(self.n_batch):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0

    def _guarded(self, on_node: OnNode) -> Callable[[int, bool, Any], bool]:
        """An exception can't cross llama.cpp's frames: it is kept, and raised after the decode."""

        def call(address: int, ask: bool, user_data: Any) -> bool:
            if self._failed:
                return False
            try:
                return on_node(address, ask)
            except BaseException as error:
                self._failed.append(error)
                return False

        return call

    def _is_stopped(self, user_data: Any) -> bool:
        return bool(self._failed) or self._interrupted()

    def run(self, chunk: Sequence[int], first_row: int = 0, on_rows: OnRows | None = None) -> None:
        """Read one chunk from an empty memory, and compute logits for its tokens.

        Args:
            chunk: at most ``size`` ids.
            first_row: leave out the logits of the tokens before it.

        Raises:
            DecodeError: llama.cpp failed.
            KeyboardInterrupt: Ctrl-C; the chunk is lost.
        """
        llama_cpp.llama_memory_clear(self._memory, True)
        for start in range(0, len(chunk), self.n_batch):
            part = chunk[start : start + self.n_batch]
            self.append(part, start, first_row)
            skipped = max(0, first_row - start)
            if on_rows is not None and skipped < len(part):
                on_rows(start + skipped, self._rows(len(part) - skipped))

    def append(self, tokens: Sequence[int], position: int, first_row: int = 0) -> None:
        """Decode a batch of tokens that stand at ``position``; see :meth:`run`."""
        batch, n = self._batch, len(tokens)
        batch.n_tokens = n
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, position + i
            batch.logits[i] = position + i >= first_row
        with deferred_interrupt() as self._interrupted:
            code = llama_cpp.llama_decode(self._pointer, batch)
            llama_cpp.llama_synchronize(self._pointer)
        if self._failed:
            raise self._failed.pop()
        if code != 0:
            raise DecodeError(self._model.path.name, int(code))

    def _rows(self, n: int) -> npt.NDArray[np.float32]:
        start = llama_cpp.llama_get_logits(self._pointer)
        return np.ctypeslib.as_array(start, (n, self._model.n_vocab))

    def clear(self) -> None:
        """Forget all tokens."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the context; safe to call again."""
        if self._pointer:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._pointer)
            self._pointer = None

    def __enter__(self) -> ChunkRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
