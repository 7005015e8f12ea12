"""llama.cpp's sampler chain over a row of fused logits."""

from __future__ import annotations

import ctypes
import os
import secrets
import sys
import tempfile
from copy import copy
from itertools import accumulate
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from trimix_kernels import fill_candidates, gumbel_argmax

from trimix_edge.config import SamplingParams
from trimix_edge.errors import DecodeError, GrammarError, UsageError
from trimix_edge.llama.backend import (
    collected_errors,
    deferred_interrupt,
    init_backend,
    reason,
)
from trimix_edge.llama.vocab import Vocab

_DRY_BREAKERS = (b"\n", b":", b'"', b"*")
_MIN_KEEP = 1
_MIROSTAT_M = 100
_LONGEST_WINDOW = 1 << 16
_DEEPEST_GRAMMAR = 1000
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

GREEDY = SamplingParams()


class Sampler:
    """Chooses a token from fused logits: the bare argmax, or llama.cpp's samplers.

    The chain is that of llama.cpp's own programs: grammar, penalties, DRY, top-n-sigma, top-k,
    typical-p, top-p, min-p, XTC, temperature. Only the draw at its end is ours, by Gumbel noise
    that depends on seed, position and token alone (:mod:`trimix_kernels.noise`): given the same
    noise, a drafting model draws what the fused distribution will draw. Mirostat draws by itself.

    Args:
        vocab: the vocabulary of ``large_ins``, for grammar and DRY.
        n_vocab: the shared size, the length of a fused row.
        params: what to switch on.

    Raises:
        GrammarError: llama.cpp does not accept the grammar.
        UsageError: ``logit_bias`` names a token that is not in the vocabulary.
    """

    _grammar: Any = None
    _chain: Any = None

    def __init__(self, vocab: Vocab, n_vocab: int, params: SamplingParams = GREEDY) -> None:
        init_backend()
        self._vocab = vocab
        self._n_vocab = n_vocab
        self.params = params
        self.seed = params.seed if params.seed is not None else secrets.randbelow(2**32 - 1)
        self._n_accepted = 0
        self._draws = params.temperature > 0.0 and params.mirostat == 0
        if params.is_bare_argmax:
            return
        self._candidates = np.empty(n_vocab, _TOKEN_DATA)
        unknown = [token for token in params.logit_bias if token >= n_vocab]
        if unknown:
            raise UsageError(
                f"logit_bias: token {unknown[0]} is not in a vocabulary of {n_vocab} tokens"
            )
        self._biased = np.array(list(params.logit_bias), np.intp)
        self._biases = np.array(list(params.logit_bias.values()), np.float32)
        if params.grammar is not None:
            self._grammar = _grammar_sampler(vocab, params.grammar)
        self._chain = self._build_chain()

    def _build_chain(self) -> Any:
        p = self.params
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

        def add(sampler: Any) -> None:
            llama_cpp.llama_sampler_chain_add(chain, sampler)

        add(
            llama_cpp.llama_sampler_init_penalties(
                self._n_vocab, _window(p.repeat_last_n), p.repeat_penalty, p.frequency_penalty,
                p.presence_penalty,
            )
        )  # fmt: skip
        if p.dry_multiplier > 0:
            breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
            add(
                llama_cpp.llama_sampler_init_dry(
                    self._vocab.pointer, p.dry_multiplier, p.dry_base, p.dry_allowed_length,
                    _window(p.dry_penalty_last_n), breakers, len(breakers),
                )
            )  # fmt: skip
        if p.temperature == 0.0:
            add(llama_cpp.llama_sampler_init_greedy())
        elif p.mirostat == 1:
            add(llama_cpp.llama_sampler_init_temp(p.temperature))
            add(
                llama_cpp.llama_sampler_init_mirostat(
                    self._n_vocab, self.seed, p.mirostat_tau, p.mirostat_eta, _MIROSTAT_M
                )
            )
        elif p.mirostat == 2:
            add(llama_cpp.llama_sampler_init_temp(p.temperature))
            add(llama_cpp.llama_sampler_init_mirostat_v2(self.seed, p.mirostat_tau, p.mirostat_eta))
        else:
            add(llama_cpp.llama_sampler_init_top_n_sigma(p.top_n_sigma))
            add(llama_cpp.llama_sampler_init_top_k(p.top_k))
            add(llama_cpp.llama_sampler_init_typical(p.typical_p, _MIN_KEEP))
            add(llama_cpp.llama_sampler_init_top_p(p.top_p, _MIN_KEEP))
            add(llama_cpp.llama_sampler_init_min_p(p.min_p, _MIN_KEEP))
            add(
                llama_cpp.llama_sampler_init_xtc(
                    p.xtc_probability, p.xtc_threshold, _MIN_KEEP, self.seed
                )
            )
            add(llama_cpp.llama_sampler_init_temp(p.temperature))
        return chain

    def clone(self) -> Sampler:
        """One in the same state that goes its own way from here (``llama_sampler_clone``).

        It uses this one's buffer: the two must not choose at the same time.
        """
        other = copy(self)
        if self._grammar:
            other._grammar = llama_cpp.llama_sampler_clone(self._grammar)
        if self._chain:
            other._chain = llama_cpp.llama_sampler_clone(self._chain)
        return other

    def choose(self, logits: npt.NDArray[np.float32], best: int) -> int:
        """The next token.

        Args:
            logits: float32 ``[n_vocab]``, one fused row; left as it is.
            best: its argmax, -1 where nothing is above -inf.

        Raises:
            DecodeError: no token is possible.
        """
        if best < 0:
            raise DecodeError("fusion", 0, "no token has a finite fused logit: is a file damaged?")
        if self._chain is None:
            return best
        if self._biased.size:
            logits = logits.copy()
            logits[self._biased] += self._biases
        c = self._candidates
        array = llama_cpp.llama_token_data_array(
            data=c.ctypes.data_as(llama_cpp.llama_token_data_p),
            size=fill_candidates(logits, c["id"], c["logit"], c["p"]),
            selected=-1,
            sorted=False,
        )
        if self._grammar:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
            allowed = c[: array.size][c["logit"][: array.size] > -np.inf]
            array.size = len(allowed)
            c[: array.size] = allowed
        # Accepting a token that the grammar forbids would end the process.
        if array.size == 0:
            raise DecodeError("fusion", 0, "grammar, mask and logit_bias leave no token to choose")
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        if self._draws:
            # XTC drops the likeliest by moving the beginning of the array.
            begin = ctypes.cast(array.data, ctypes.c_void_p).value or c.ctypes.data
            first = (begin - c.ctypes.data) // c.itemsize
            left = c[first : first + array.size]
            place = gumbel_argmax(left["logit"], left["id"], self.seed, self._n_accepted)
            if place < 0:
                raise DecodeError("fusion", 0, "the samplers leave no token to choose")
            return int(left["id"][place])
        return int(array.data[array.selected].id)

    def accept(self, token: int) -> None:
        """Tell grammar and penalties that a token was appended (``llama_sampler_accept``)."""
        self._n_accepted += 1
        if self._grammar:
            llama_cpp.llama_sampler_accept(self._grammar, token)
        if self._chain:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def accept_prompt(self, tokens: list[int]) -> None:
        """Let penalties see the prompt, as llama.cpp's programs do; the grammar must not."""
        if self._chain:
            for token in tokens:
                llama_cpp.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the samplers; safe to call again."""
        for sampler in (self._grammar, self._chain):
            if sampler:
                llama_cpp.llama_sampler_free(sampler)
        self._grammar = self._chain = None

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _window(last_n: int) -> int:
    """Tokens that a penalty looks back over: for -1 all of them, up to :data:`_LONGEST_WINDOW`.

    llama.cpp's own programs put the length of the context there; its library reads -1 as 0, and
    takes memory for each token of the window whether it comes or not.
    """
    return min(last_n, _LONGEST_WINDOW) if last_n >= 0 else _LONGEST_WINDOW


def _grammar_sampler(vocab: Vocab, grammar: str) -> Any:
    """A GBNF grammar with the start symbol ``root``.

    llama.cpp writes what it finds wrong in a grammar to file descriptor 2 and not to its log, so
    the descriptor is turned aside meanwhile.
    """
    if not grammar.strip():
        raise GrammarError("grammar: it is empty")
    if "\0" in grammar:
        raise GrammarError("grammar: it contains a NUL byte")
    depth = max(accumulate((c == "(") - (c == ")") for c in grammar))
    if depth > _DEEPEST_GRAMMAR:  # llama.cpp's parser calls itself for each
        raise GrammarError(
            f"grammar: {depth} brackets are open at once, up to {_DEEPEST_GRAMMAR} are fine"
        )
    try:
        text = grammar.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"grammar: not valid Unicode at character {error.start}") from None
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said, collected_errors() as errors, deferred_interrupt():
        os.dup2(said.fileno(), 2)
        try:
            sampler = llama_cpp.llama_sampler_init_grammar(vocab.pointer, text, b"root")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        first_line = said.readline().decode("utf-8", errors="replace").strip()
    if not sampler:
        why = first_line.rpartition("error parsing grammar: ")[2] or reason(errors)
        shown = " ".join(why.split())[:160]
        raise GrammarError(f"grammar: {shown or 'llama.cpp does not accept it'}")
    return sampler
