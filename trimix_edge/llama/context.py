"""One model's state: its KV cache, and the logits of the last tokens that were decoded."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import psutil

from trimix_edge.config import ContextParams
from trimix_edge.errors import ContextError, DecodeError, PromptCacheError
from trimix_edge.gguf import KV_BYTES, MAX_ROWS
from trimix_edge.llama.backend import (
    collected_errors,
    deferred_interrupt,
    physical_cores,
    reason,
)
from trimix_edge.llama.model import LlamaModel

_NO_ROOM, _ABORTED = 1, 2  # what llama_decode returns


class LlamaContext:
    """Owner of a ``llama_context`` with one sequence. Close it before its model.

    Args:
        model: a loaded model; must outlive the context.
        name: what errors call this model: its role.
        params: ``n_ctx`` and ``n_batch`` must be given.
        adapter: one that the model has loaded, for this context alone.

    Attributes:
        tokens: the ids that its memory holds, in order; read only.
        n_kv_bytes: bytes of its KV cache, at most.

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
        self.tokens: list[int] = []
        self.n_ctx = params.n_ctx
        self.n_batch = min(params.n_batch, params.n_ctx)
        self.n_kv_bytes = int(model.kv_elements(params.n_ctx) * KV_BYTES[params.kv_type])
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
        kv_bytes = self.n_kv_bytes
        available = psutil.virtual_memory().available
        if kv_bytes > available:
            raise ContextError(
                f"{self._name}: a context of {params.n_ctx} tokens needs {kv_bytes / 1e9:.1f} GB, "
                f"{available / 1e9:.1f} GB are free: lower --ctx, or set --kv-type q8_0"
            )

    def _create(self, params: ContextParams) -> None:
        threads = params.n_threads or physical_cores()
        c = llama_cpp.llama_context_default_params()
        c.n_ctx = params.n_ctx
        c.n_batch = c.n_ubatch = self.n_batch
        c.n_seq_max = 1
        c.n_outputs_max = MAX_ROWS
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
                f"with --kv-type {params.kv_type}: {reason(errors) or 'it gives no reason'}"
            )

    def _apply(self, adapter: Any) -> None:
        """Let a LoRA adapter change what this context computes (``llama_set_adapters_lora``)."""
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(1.0)
        llama_cpp.llama_set_adapters_lora(self._pointer, adapters, 1, scales)

    def _allocate_batch(self) -> None:
        """One batch for all decodes; everything but ids, positions and flags is constant."""
        self._batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        shape = (self.n_batch,)
        self._tokens = np.ctypeslib.as_array(self._batch.token, shape)
        self._positions = np.ctypeslib.as_array(self._batch.pos, shape)
        self._wanted = np.ctypeslib.as_array(self._batch.logits, shape)
        for i in range(self.n_batch):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0

    @property
    def n_past(self) -> int:
        """Tokens in the sequence."""
        return len(self.tokens)

    def decode(
        self, tokens: Sequence[int], n_rows: int = 1, *, n_pad: int = 0, abortable: bool = False
    ) -> None:
        """Append tokens to the sequence and compute logits for the last ``n_rows`` of them.

        On a GPU this only starts the work: :meth:`logits` waits for it.

        Args:
            tokens: 1 to ``n_batch`` ids.
            n_rows: 0 to ``MAX_ROWS``.
            n_pad: evaluate and forget this many more, as far as there is room: a batch of 4 can be
                cheaper than one of 3.
            abortable: let Ctrl-C stop the computation; costs some milliseconds a call.

        Raises:
            DecodeError: no room in the context, an id outside the vocabulary, or llama.cpp failed.
            KeyboardInterrupt: Ctrl-C in an abortable decode; the sequence is as it was before.
        """
        n = len(tokens)
        if not 0 < n <= self.n_batch or not 0 <= n_rows <= min(n, MAX_ROWS):
            raise ValueError(f"can't decode {n} tokens for {n_rows} rows of logits at once")
        if self.n_past + n > self.n_ctx:
            raise DecodeError(self._name, _NO_ROOM, f"the context of {self.n_ctx} tokens is full")
        n_pad = min(n_pad, self.n_batch - n, self.n_ctx - self.n_past - n)
        self._fill_batch(tokens, n_rows, n_pad)
        code = self._decode_abortably() if abortable else self._decode_batch()
        if code != 0:
            self.truncate(self.n_past)
            self._n_rows = 0
            raise DecodeError(self._name, code)
        self.tokens += tokens
        self._n_rows = n_rows
        if n_pad:
            self.truncate(self.n_past)

    def _fill_batch(self, tokens: Sequence[int], n_rows: int, n_pad: int) -> None:
        batch, n = self._batch, len(tokens)
        batch.n_tokens = n + n_pad
        if (
            n + n_pad == 1
        ):  # after a decode all caches are cold: the less that is touched, the better
            batch.token[0], batch.pos[0], batch.logits[0] = tokens[0], self.n_past, n_rows
            return
        self._tokens[:n] = tokens
        self._tokens[n : n + n_pad] = tokens[-1]
        self._positions[: n + n_pad] = range(self.n_past, self.n_past + n + n_pad)
        self._wanted[: n + n_pad] = 0
        self._wanted[n - n_rows : n] = 1

    def _decode_batch(self) -> int:
        return int(llama_cpp.llama_decode(self._pointer, self._batch))

    def _decode_abortably(self) -> int:
        with deferred_interrupt() as interrupted:
            abort = llama_cpp.ggml_abort_callback(lambda user_data: interrupted())
            llama_cpp.llama_set_abort_callback(self._pointer, abort, None)
            try:
                code = self._decode_batch()
            finally:
                llama_cpp.llama_set_abort_callback(self._pointer, self._never_abort, None)
            if interrupted():  # perhaps too late to stop it, and perhaps nobody raises
                self.truncate(self.n_past)
                code = code or _ABORTED
        return code

    def logits(self) -> npt.NDArray[np.float32]:
        """The rows of the last decode, in llama.cpp's own memory (``llama_get_logits``).

        Returns:
            float32 ``[n_rows, n_vocab]``, C-contiguous; valid until the next decode.
        """
        start = llama_cpp.llama_get_logits(self._pointer)
        key = (ctypes.addressof(start.contents), self._n_rows)
        if key not in self._views:
            # The buffer stays where it is from decode to decode, unless it had to grow.
            self._views = {key: np.ctypeslib.as_array(start, (self._n_rows, self._n_vocab))}
        return self._views[key]

    def truncate(self, n_past: int) -> None:
        """Forget every token after the first ``n_past`` (``llama_memory_seq_rm``)."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, n_past, -1):
            llama_cpp.llama_memory_clear(self._memory, True)
            self.tokens.clear()
            raise DecodeError(self._name, 0, f"its memory can't be cut back to {n_past} tokens")
        del self.tokens[n_past:]

    def state(self) -> npt.NDArray[np.uint8]:
        """What the context holds, for :meth:`restore` (``llama_state_seq_get_data``)."""
        size = llama_cpp.llama_state_seq_get_size(self._pointer, 0)
        state = np.empty(size, np.uint8)
        data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = llama_cpp.llama_state_seq_get_data(self._pointer, data, size, 0)
        return state[:written]

    def restore(self, state: npt.NDArray[np.uint8], tokens: Sequence[int]) -> None:
        """Hold what another context of this model held (``llama_state_seq_set_data``).

        Args:
            state: from :meth:`state`.
            tokens: those of the other context.

        Raises:
            PromptCacheError: llama.cpp does not take it; the context is empty then.
        """
        self.truncate(0)
        data = np.ascontiguousarray(state).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        with collected_errors() as errors:
            read = llama_cpp.llama_state_seq_set_data(self._pointer, data, state.size, 0)
        if not read or read != state.size:
            llama_cpp.llama_memory_clear(self._memory, True)
            raise PromptCacheError(f"{self._name}: llama.cpp refuses the state: {reason(errors)}")
        self.tokens = list(tokens)

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
