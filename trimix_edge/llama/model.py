"""A GGUF file that llama.cpp has loaded."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import llama_cpp

from trimix_edge import values
from trimix_edge.config import Role
from trimix_edge.errors import ModelLoadError, UsageError, notice
from trimix_edge.gguf import check_header
from trimix_edge.llama.backend import (
    collected_errors,
    deferred_interrupt,
    has_gpu,
    init_backend,
    is_repacked,
    reason,
)
from trimix_edge.llama.rpc import Placement
from trimix_edge.llama.vocab import Vocab

NORMALIZER_KEY = "trimix.tokenizer.normalizer"
"""Metadata of our own: the Unicode normal form that texts get before they are tokenized."""


def _without_vocabulary(architecture: str, n_vocab: int) -> Any:
    """Metadata for llama.cpp to believe instead of the file's (``llama_model_kv_override``)."""
    overrides = (llama_cpp.llama_model_kv_override * 3)()  # an empty key ends them
    tokenizer, size, _ = overrides
    tokenizer.key = b"tokenizer.ggml.model"
    tokenizer.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
    tokenizer.value.val_str = b"none"
    size.key = f"{architecture}.vocab_size".encode()[:127]
    size.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
    size.value.val_i64 = n_vocab
    return overrides


class LlamaModel:
    """Owner of a ``llama_model``. Close it, or use it as a context manager, after its contexts.

    Args:
        path: a GGUF file; the first one of a model in several parts.
        gpu_layers: layers to put on a GPU, -1 for all; of no effect in a build without GPU.
        vocab_only: read the metadata and the vocabulary, no weights; no context can be made.
        n_vocab: leave out the vocabulary, which is known to have this many tokens: one of 152k
            takes 33 MB. Ids mean nothing to the model then, only its logits do.
        repack: let llama.cpp lay weights out anew for the CPU (``use_extra_bufts``).
        placement: other devices than a GPU of this machine, for the layers of ``gpu_layers``.
        on_progress: called with 0.0 to 1.0 while the file loads.

    Raises:
        ModelLoadError: the file is missing, no GGUF, truncated, or not a text generating model.
        KeyboardInterrupt: Ctrl-C while loading; nothing stays in memory.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        vocab_only: bool = False,
        n_vocab: int | None = None,
        repack: bool = True,
        placement: Placement | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        header = check_header(path)
        init_backend()
        self.path = path
        self.is_offloaded = gpu_layers != 0 and (placement is not None or has_gpu())
        self._has_vocabulary = n_vocab is None
        self._pointer: Any = None
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocab_only
        params.use_extra_bufts = repack
        params.load_mode = (
            llama_cpp.LLAMA_LOAD_MODE_NONE
            if repack and is_repacked(header.types)
            else llama_cpp.LLAMA_LOAD_MODE_MMAP
        )
        if n_vocab is not None:
            params.kv_overrides = _without_vocabulary(header.architecture, n_vocab)
        kept = [] if placement is None else placement.apply(params)
        self._load(params, on_progress)
        del kept
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _load(self, params: Any, on_progress: Callable[[float], None] | None) -> None:
        failed: list[BaseException] = []

        def on_part(fraction: float, user_data: ctypes.c_void_p) -> bool:
            try:
                if on_progress is not None:
                    on_progress(fraction)
            except BaseException as error:  # llama.cpp's frames would swallow it
                failed.append(error)
            return not failed and not interrupted()

        with collected_errors() as errors, deferred_interrupt() as interrupted:
            params.progress_callback = llama_cpp.llama_progress_callback(on_part)
            self._pointer = llama_cpp.llama_model_load_from_file(os.fsencode(self.path), params)
            if interrupted() or failed:
                self.close()
        if failed:
            raise failed[0]
        if not self._pointer:
            why = reason(errors) or "llama.cpp gives no reason"
            raise ModelLoadError(f"{self.path} could not be loaded: {why}")

    def _check(self) -> None:
        pointer = self._pointer
        kind = llama_cpp.llama_vocab_type(llama_cpp.llama_model_get_vocab(pointer))
        is_none = kind == llama_cpp.LLAMA_VOCAB_TYPE_NONE
        if (is_none and self._has_vocabulary) or self.n_vocab == 0:
            raise ModelLoadError(f"{self.path} has no vocabulary: fusion needs a text model")
        not_causal = self.metadata(f"{self.architecture}.attention.causal") == "false"
        pooling = self.metadata(f"{self.architecture}.pooling_type") or "0"
        if not_causal or pooling != "0" or not llama_cpp.llama_model_has_decoder(pointer):
            raise ModelLoadError(f"{self.path} is an embedding model: it can't generate text")
        if llama_cpp.llama_model_has_encoder(pointer):
            raise ModelLoadError(f"{self.path} has an encoder: only decoder models can be fused")
        if llama_cpp.llama_model_is_diffusion(pointer):
            raise ModelLoadError(f"{self.path} is a diffusion model: it has no next-token logits")
        if llama_cpp.llama_model_is_recurrent(pointer) or llama_cpp.llama_model_is_hybrid(pointer):
            # Their state can't be cut back to an earlier token.
            raise ModelLoadError(f"{self.path} is a recurrent model: only transformers can be used")

    @property
    def pointer(self) -> Any:
        """``llama_model *``, for contexts; a :class:`UsageError` once it is freed."""
        if not self._pointer:
            raise UsageError(f"{self.path} was closed: load it again")
        return self._pointer

    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary, padding included, whether it was loaded or not."""
        return int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.pointer)))

    @cached_property
    def vocab(self) -> Vocab:
        """The vocabulary, for as long as the model lives.

        Raises:
            UsageError: the model was loaded without it.
            ModelLoadError: the file asks for a normaliser that does not exist.
        """
        if not self._has_vocabulary:
            raise UsageError(f"{self.path} was loaded without its vocabulary: use its trio's")
        try:
            normalizer = values.normalizer(self.metadata(NORMALIZER_KEY) or "")
        except UsageError as error:
            raise ModelLoadError(f"{self.path}: {NORMALIZER_KEY}: {error}") from None
        return Vocab(
            llama_cpp.llama_model_get_vocab(self.pointer),
            self.metadata("tokenizer.ggml.model") or "",
            self.metadata("tokenizer.ggml.pre") or "",
            normalizer,
            has_bos=self.metadata("tokenizer.ggml.bos_token_id") is not None,
            has_eos=self.metadata("tokenizer.ggml.eos_token_id") is not None,
        )

    @cached_property
    def architecture(self) -> str:
        return self.metadata("general.architecture") or ""

    @cached_property
    def chat_template(self) -> str | None:
        raw = llama_cpp.llama_model_chat_template(self.pointer, None)
        return raw.decode("utf-8", errors="replace") if raw else None

    @property
    def n_ctx_train(self) -> int:
        """Tokens of context that the model was trained on."""
        return int(llama_cpp.llama_model_n_ctx_train(self.pointer))

    def kv_elements(self, n_ctx: int) -> int:
        """Elements of keys and values together that a cache of ``n_ctx`` tokens holds, if all
        layers are like the first."""
        pointer = self.pointer
        n_layer: int = llama_cpp.llama_model_n_layer(pointer)
        n_head: int = max(1, llama_cpp.llama_model_n_head(pointer))
        n_head_kv: int = llama_cpp.llama_model_n_head_kv(pointer)
        n_embd: int = llama_cpp.llama_model_n_embd(pointer)
        key = self.metadata(f"{self.architecture}.attention.key_length")
        value = self.metadata(f"{self.architecture}.attention.value_length")
        width = int(key or n_embd // n_head) + int(value or n_embd // n_head)
        return n_ctx * n_layer * n_head_kv * width

    def metadata(self, key: str) -> str | None:
        """A metadata value as text (``llama_model_meta_val_str``), None where there is no such key.
        Arrays are not text: llama.cpp shortens them.
        """
        capacity = 256
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            size = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), buffer, capacity)
            if size < 0:
                return None
            if size < capacity:
                return buffer.raw[:size].decode("utf-8", errors="replace")
            capacity = size + 1

    def load_adapter(self, path: Path) -> Any:
        """Load a LoRA adapter for contexts of this model (``llama_adapter_lora_init``).

        Contexts made before it can't use it. It lives as long as the model.

        Raises:
            ModelLoadError: the file is no adapter, damaged, or belongs to another model.
        """
        if check_header(path).get("general.type", str) != "adapter":
            raise ModelLoadError(f"{path} is no LoRA adapter: convert one with trimix-edge convert")
        with collected_errors() as errors, deferred_interrupt():
            adapter = llama_cpp.llama_adapter_lora_init(self.pointer, os.fsencode(path))
        if not adapter:
            why = reason(errors) or "llama.cpp gives no reason"
            raise ModelLoadError(f"{path} is no adapter for {self.path}: {why}")
        return adapter

    def close(self) -> None:
        """Free the model; safe to call again."""
        if self._pointer:
            if "vocab" in self.__dict__:
                self.vocab.forget()
            llama_cpp.llama_model_free(self._pointer)
            self._pointer = None

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Trained(Protocol):
    """A model, in whatever process."""

    @property
    def n_ctx_train(self) -> int: ...


def warn_beyond_training(models: Mapping[Role, Trained], n_ctx: int) -> None:
    """Give a notice where a context is longer than what a model was trained for."""
    n_train, role = min((model.n_ctx_train, str(role)) for role, model in models.items())
    if n_ctx > n_train:
        notice(
            f"a context of {n_ctx} tokens is longer than the {n_train} that {role} was trained "
            f"for: what comes after them may be nonsense"
        )
