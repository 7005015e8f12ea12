"""One model's state: its KV cache of several sequences, and the logits of the last decode."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import numpy.typing as npt
import psutil

from trimix_edge.config import ContextParams
from trimix_edge.errors import ContextError, DecodeError, PromptCacheError
from trimix_edge.gguf import KV_BYTES, MAX_READ_ROWS, MAX_ROWS
from trimix_edge.llama.backend import (
    collected_errors,
    deferred_interrupt,
    physical_cores,
    reason,
)
from trimix_edge.llama.model import LlamaModel

_NO_ROOM, ABORTED = 1, 2  # what llama_decode returns


class BatchItem(NamedTuple):
    """What one sequence adds to a batch.

    Attributes:
        seq: the sequence, from 0 to ``n_parallel - 1``.
        tokens: ids that are appended to it.
        n_rows: logits are computed for this many of the last ones.
    """

    seq: int
    tokens: Sequence[int]
    n_rows: int = 1


class LlamaContext:
    """Owner of a ``llama_context`` with ``n_parallel`` sequences. Close it before its model.

    All sequences share one buffer of keys and values (``kv_unified``): a prefix is copied from one
    to another without copying memory, and each may grow to ``n_ctx`` tokens.

    Args:
        model: a loaded model; must outlive the context.
        name: what errors call this model: its role.
        params: ``n_ctx`` and ``n_batch`` must be given.
        adapter: one that the model has loaded, for this context alone.

    Attributes:
        tokens: the ids that its memory holds, by sequence, in order; read only.
        n_ctx: tokens that one sequence may hold.
        n_kv_bytes: bytes of its KV cache, at most.
        max_rows: rows of logits that one decode may ask for.

    Raises:
        ContextError: the context does not fit into memory, or llama.cpp refuses it.
    """

    def __init__(
        self, model: LlamaModel, name: str, params: ContextParams, adapter: Any = None
    ) -> None:
        self._pointer: Any = None
        self._model = model
        self._name = name
        self._n_vocab = model.n_vocab
        self._views: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
        self._n_rows = 0
        self.tokens: list[list[int]] = [[] for _ in range(params.n_parallel)]
        self.n_ctx = params.n_ctx
        self.n_batch = min(params.n_batch, params.n_ctx * params.n_parallel)
        n_read = min(MAX_READ_ROWS, self.n_batch) if params.reads else 0
        self.max_rows = max(MAX_ROWS, params.n_parallel, n_read)
        n_cells = params.n_ctx * params.n_parallel
        self.n_kv_bytes = int(model.kv_elements(n_cells) * KV_BYTES[params.kv_type])
        self._check_memory(params)
        self._create(params)
        if adapter is not None:
            self._apply(adapter)
        self._memory = llama_cpp.llama_get_memory(self._pointer)
        self._never_abort = llama_cpp.ggml_abort_callback()
        self._allocate_batch()

    def _check_memory(self, params: ContextParams) -> None:
        """Refuse what does not fit: Linux hands out memory it lacks, and then kills the process."""
        if self._model.is_offloaded:  # into the card's memory, which its driver watches
            return
        available = psutil.virtual_memory().available
        if self.n_kv_bytes > available:
            sequences = f" for each of {params.n_parallel} sequences" * (params.n_parallel > 1)
            raise ContextError(
                f"{self._name}: a context of {params.n_ctx} tokens{sequences} needs "
                f"{self.n_kv_bytes / 1e9:.1f} GB, {available / 1e9:.1f} GB are free: lower n_ctx"
                f"{' or n_parallel' if params.n_parallel > 1 else ''}, or set kv_type q8_0"
            )

    def _create(self, params: ContextParams) -> None:
        threads = self._n_threads = params.n_threads or physical_cores()
        c = llama_cpp.llama_context_default_params()
        c.n_ctx = params.n_ctx * params.n_parallel
        c.n_batch = c.n_ubatch = self.n_batch
        c.n_seq_max = params.n_parallel
        c.kv_unified = True
        c.n_outputs_max = self.max_rows
        c.n_threads = c.n_threads_batch = threads
        c.type_k = c.type_v = getattr(llama_cpp, f"GGML_TYPE_{params.kv_type.upper()}")
        if params.kv_type == "f32":  # llama.cpp's flash attention would round it to f16
            c.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        c.swa_full = True  # a window of keys could not be cut back to an earlier token
        c.no_perf = True
        with collected_errors() as errors, deferred_interrupt() as interrupted:
            self._pointer = llama_cpp.llama_init_from_model(self._model.pointer, c)
            if self._pointer and interrupted():
                llama_cpp.llama_free(self._pointer)
                self._pointer = None
        if not self._pointer:
            raise ContextError(
                f"{self._name}: llama.cpp could not make a context of {params.n_ctx} tokens "
                f"with kv_type {params.kv_type}: {reason(errors) or 'it gives no reason'}"
            )

    def _apply(self, adapter: Any) -> None:
        """Let a LoRA adapter change what this context computes (``llama_set_adapters_lora``)."""
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(1.0)
        llama_cpp.llama_set_adapters_lora(self._pointer, adapters, 1, scales)

    def _allocate_batch(self) -> None:
        """One batch for all decodes."""
        self._batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        shape = (self.n_batch,)
        self._ids = np.ctypeslib.as_array(self._batch.token, shape)
        self._positions = np.ctypeslib.as_array(self._batch.pos, shape)
        self._wanted = np.ctypeslib.as_array(self._batch.logits, shape)
        for i in range(self.n_batch):
            self._batch.n_seq_id[i] = 1

    def set_threads(self, n_threads: int) -> None:
        """CPU threads of the next decodes (``llama_set_n_threads``)."""
        if n_threads != self._n_threads:
            llama_cpp.llama_set_n_threads(self._pointer, n_threads, n_threads)
            self._n_threads = n_threads

    def n_past(self, seq: int) -> int:
        """Tokens in a sequence."""
        return len(self.tokens[seq])

    def decode(
        self, items: Sequence[BatchItem], *, is_cancelled: Callable[[], bool] | None = None
    ) -> None:
        """Append tokens to sequences, each at most once, in one batch (``llama_decode``).

        On a GPU this only starts the work: :meth:`logits` waits for it.

        Args:
            items: up to ``n_batch`` tokens and ``max_rows`` rows in all.
            is_cancelled: asked during the computation, which stops where it says so; Ctrl-C stops
                it as well then. Costs some milliseconds a call.

        Raises:
            DecodeError: no room in the context, an id outside the vocabulary, llama.cpp failed, or
                ``is_cancelled`` said so; all sequences are as they were before.
            KeyboardInterrupt: Ctrl-C; likewise.
        """
        n = n_rows = 0
        is_odd = is_full = False
        for seq, tokens, rows in items:  # one pass: this is on the path of every token
            n, n_rows = n + len(tokens), n_rows + rows
            is_odd |= not 0 <= rows <= len(tokens)
            is_full |= len(self.tokens[seq]) + len(tokens) > self.n_ctx
        if not 0 < n <= self.n_batch or n_rows > self.max_rows or is_odd:
            raise ValueError(f"can't decode {n} tokens for {n_rows} rows of logits at once")
        if is_full:
            raise DecodeError(self._name, _NO_ROOM, f"the context of {self.n_ctx} tokens is full")
        self._fill_batch(items, n)
        code = self._decode_abortably(items, is_cancelled) if is_cancelled else self._decode_batch()
        if code != 0:
            self._restore_lengths(items)
            self._n_rows = 0
            raise DecodeError(self._name, code)
        for item in items:
            self.tokens[item.seq] += item.tokens
        self._n_rows = n_rows

    def _fill_batch(self, items: Sequence[BatchItem], n: int) -> None:
        batch = self._batch
        batch.n_tokens = n
        at = 0
        for seq, tokens, n_rows in items:
            n_past = len(self.tokens[seq])
            if len(tokens) == 1:
                # After a decode all caches are cold: the less that is touched, the better.
                batch.token[at], batch.pos[at], batch.logits[at] = tokens[0], n_past, n_rows
                batch.seq_id[at][0] = seq
                at += 1
                continue
            end = at + len(tokens)
            self._ids[at:end] = tokens
            self._positions[at:end] = range(n_past, n_past + len(tokens))
            self._wanted[at:end] = 0
            self._wanted[end - n_rows : end] = 1
            for i in range(at, end):
                batch.seq_id[i][0] = seq
            at = end

    def _decode_batch(self) -> int:
        return int(llama_cpp.llama_decode(self._pointer, self._batch))

    def _decode_abortably(
        self, items: Sequence[BatchItem], is_cancelled: Callable[[], bool]
    ) -> int:
        with deferred_interrupt() as interrupted:
            abort = llama_cpp.ggml_abort_callback(lambda user_data: interrupted() or is_cancelled())
            llama_cpp.llama_set_abort_callback(self._pointer, abort, None)
            try:
                code = self._decode_batch()
            finally:
                llama_cpp.llama_set_abort_callback(self._pointer, self._never_abort, None)
            if interrupted():  # perhaps too late to stop it, and perhaps nobody raises
                self._restore_lengths(items)
                code = code or ABORTED
        return code

    def _restore_lengths(self, items: Sequence[BatchItem]) -> None:
        for item in items:
            self.truncate(item.seq, self.n_past(item.seq))

    def finish(self) -> None:
        """Nothing to wait for: see :class:`trimix_edge.rpc.remote.RemoteContext`."""

    def logits(self) -> npt.NDArray[np.float32]:
        """The rows of the last decode, in llama.cpp's own memory (``llama_get_logits``).

        Returns:
            float32 ``[n_rows, n_vocab]``, C-contiguous, in the order of the batch; valid until the
            next decode.
        """
        start = llama_cpp.llama_get_logits(self._pointer)
        key = (ctypes.addressof(start.contents), self._n_rows)
        if key not in self._views:
            # The buffer stays where it is from decode to decode, unless it had to grow.
            if len(self._views) > self.max_rows:
                self._views.clear()
            self._views[key] = np.ctypeslib.as_array(start, (self._n_rows, self._n_vocab))
        return self._views[key]

    def truncate(self, seq: int, n_past: int) -> None:
        """Forget every token of a sequence after the first ``n_past`` (``llama_memory_seq_rm``)."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, seq, n_past, -1):
            llama_cpp.llama_memory_clear(self._memory, True)
            for tokens in self.tokens:
                tokens.clear()
            raise DecodeError(self._name, 0, f"its memory can't be cut back to {n_past} tokens")
        del self.tokens[seq][n_past:]

    def copy_prefix(self, source: int, target: int, n: int) -> None:
        """Let a sequence hold the first ``n`` tokens of another one, and nothing else
        (``llama_memory_seq_cp``). No memory is copied."""
        self.truncate(target, 0)
        if n:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, n)
            self.tokens[target] = self.tokens[source][:n]

    def state(self, seq: int) -> npt.NDArray[np.uint8]:
        """What a sequence holds, for :meth:`restore` (``llama_state_seq_get_data``)."""
        size = llama_cpp.llama_state_seq_get_size(self._pointer, seq)
        state = np.empty(size, np.uint8)
        data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = llama_cpp.llama_state_seq_get_data(self._pointer, data, size, seq)
        return state[:written]

    def restore(self, state: npt.NDArray[np.uint8], tokens: Sequence[int]) -> None:
        """Let the first sequence hold what another context's held (``llama_state_seq_set_data``).

        Args:
            state: from :meth:`state`.
            tokens: those of the other context.

        Raises:
            PromptCacheError: llama.cpp does not take it; the sequence is empty then.
        """
        self.truncate(0, 0)
        data = np.ascontiguousarray(state).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        with collected_errors() as errors:
            read = llama_cpp.llama_state_seq_set_data(self._pointer, data, state.size, 0)
        if not read or read != state.size:
            self.truncate(0, 0)
            raise PromptCacheError(f"{self._name}: llama.cpp refuses the state: {reason(errors)}")
        self.tokens[0] = list(tokens)

    def close(self) -> None:
        """Free the context; safe to call again. Views of its logits die with it."""
        if self._pointer:
            self._views.clear()
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._pointer)
            self._pointer = None

    def __enter__(self) -> LlamaContext:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
