"""llama.cpp by itself, through its low-level calls: the reference for what fusion adds nothing to.

Contexts have llama.cpp's own defaults, and its own ``llama_sampler_sample`` picks the tokens. Only
where a draw from the distribution that its samplers leave is due is it made here, with
:mod:`gumbel`'s noise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from gumbel import noise

from trimix_edge.config import SamplingParams
from trimix_edge.llama.backend import init_backend

DRY_BREAKERS = (b"\n", b":", b'"', b"*")
"""Those of llama.cpp's own programs."""

AddSampler = Callable[[Any], None]


class PlainLlama(AbstractContextManager["PlainLlama"]):
    """One model, one context, one thread."""

    def __init__(self, path: Path, n_ctx: int = 512) -> None:
        init_backend()
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        assert self.model
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.n_ctx = n_ctx
        params.n_threads = params.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.context
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def __exit__(self, *exception: object) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def _decode(self, tokens: list[int]) -> None:
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(ids, len(tokens))
        assert llama_cpp.llama_decode(self.context, batch) == 0

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def row(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """The logits after the last of these tokens."""
        self._forget()
        self._decode(tokens)
        row = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(row, (self.n_vocab,)).copy()

    def generate(
        self, prompt: list[int], max_tokens: int, params: SamplingParams | None = None
    ) -> list[int]:
        """What llama.cpp's programs do: tell the samplers the prompt, and draw token by token."""
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        add_samplers(
            lambda sampler: llama_cpp.llama_sampler_chain_add(chain, sampler), self, params
        )
        try:
            for token in prompt:
                llama_cpp.llama_sampler_accept(chain, token)
            self._forget()
            self._decode(prompt)
            generated: list[int] = []
            while True:
                if params is not None and params.temperature > 0 and not params.mirostat:
                    token = self._draw(chain, params.seed or 0, len(generated))
                    llama_cpp.llama_sampler_accept(chain, token)
                else:
                    token = llama_cpp.llama_sampler_sample(chain, self.context, -1)
                generated.append(token)
                ended = llama_cpp.llama_vocab_is_eog(self.vocab, token)
                if ended or len(generated) == max_tokens:
                    return generated
                self._decode([token])
        finally:
            llama_cpp.llama_sampler_free(chain)

    def _draw(self, chain: Any, seed: int, position: int) -> int:
        """A draw from what the chain leaves of the last row."""
        row = llama_cpp.llama_get_logits_ith(self.context, -1)
        data = (llama_cpp.llama_token_data * self.n_vocab)(
            *((token, row[token], 0.0) for token in range(self.n_vocab))
        )
        array = llama_cpp.llama_token_data_array(
            data=data, size=self.n_vocab, selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
        ids = [array.data[i].id for i in range(array.size)]
        logits = np.array([array.data[i].logit for i in range(array.size)], np.float64)
        return ids[int(np.argmax(logits + noise(seed, position, ids)))]


def add_samplers(add: AddSampler, plain: PlainLlama, params: SamplingParams | None) -> None:
    """The chain of llama.cpp's programs, in their order, but for the draw at its end; ``None`` for
    greedy alone."""
    p, seed = params, (params.seed or 0) if params else 0
    if p is None:
        add(llama_cpp.llama_sampler_init_greedy())
        return
    add(
        llama_cpp.llama_sampler_init_penalties(
            plain.n_vocab, p.repeat_last_n if p.repeat_last_n >= 0 else plain.n_ctx,
            p.repeat_penalty, p.frequency_penalty, p.presence_penalty,
        )
    )  # fmt: skip
    if p.dry_multiplier:
        breakers = (ctypes.c_char_p * len(DRY_BREAKERS))(*DRY_BREAKERS)
        add(
            llama_cpp.llama_sampler_init_dry(
                plain.vocab, p.dry_multiplier, p.dry_base, p.dry_allowed_length,
                p.dry_penalty_last_n if p.dry_penalty_last_n >= 0 else plain.n_ctx,
                breakers, len(breakers),
            )
        )  # fmt: skip
    if p.temperature == 0:
        add(llama_cpp.llama_sampler_init_greedy())
        return
    if p.mirostat:
        add(llama_cpp.llama_sampler_init_temp(p.temperature))
        if p.mirostat == 1:
            add(
                llama_cpp.llama_sampler_init_mirostat(
                    plain.n_vocab, seed, p.mirostat_tau, p.mirostat_eta, 100
                )
            )
        else:
            add(llama_cpp.llama_sampler_init_mirostat_v2(seed, p.mirostat_tau, p.mirostat_eta))
        return
    add(llama_cpp.llama_sampler_init_top_n_sigma(p.top_n_sigma))
    add(llama_cpp.llama_sampler_init_top_k(p.top_k))
    add(llama_cpp.llama_sampler_init_typical(p.typical_p, 1))
    add(llama_cpp.llama_sampler_init_top_p(p.top_p, 1))
    add(llama_cpp.llama_sampler_init_min_p(p.min_p, 1))
    add(llama_cpp.llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, 1, seed))
    add(llama_cpp.llama_sampler_init_temp(p.temperature))
