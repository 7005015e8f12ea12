"""Models of published shapes with random weights: as fast as the real ones, without a download.

What they say means nothing. Speed depends on shapes and types alone, so these are what the bench
measures where nothing has been downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType

from trimix_edge.config import Role
from trimix_edge.errors import UsageError
from trimix_edge.files import replacing, require_space
from trimix_edge.hub.presets import presets_content
from trimix_edge.llama.quantize import quantize_rows

WriteProgress = Callable[[int, int], None]
"""Called with the bytes of a file that are written, and all of them."""

_QWEN_TOKENS = 151_665
"""Tokens that Qwen2.5 uses; Gemma's larger vocabulary is cut to as many, which changes no speed."""

_POOL = 1 << 20
"""Random weights of a type that are made; tensors repeat them."""

_MIXED = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}
_PLAIN = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0")


@dataclass(frozen=True)
class SyntheticModel:
    """A shape of ``presets.toml`` in a type of llama.cpp's quantiser.

    Attributes:
        n_layer: only so many layers; None for all.
    """

    name: str
    quantization: str
    n_layer: int | None = None

    @property
    def shape(self) -> dict[str, Any]:
        shape: dict[str, Any] = presets_content()["shapes"][self.name]
        return shape if self.n_layer is None else {**shape, "n_layer": self.n_layer}

    @property
    def n_bytes(self) -> int:
        return sum(_n_bytes(dims, kind) for _, dims, kind in self._tensors())

    def _tensors(self) -> Iterator[tuple[str, tuple[int, ...], GGMLQuantizationType]]:
        for tensor, dims in tensors(self.name, self.shape):
            yield tensor, dims, self._type_of(tensor, dims)

    def _type_of(self, tensor: str, dims: tuple[int, ...]) -> GGMLQuantizationType:
        """The type that llama.cpp's quantiser gives a tensor (``llama_tensor_get_type``)."""
        if len(dims) == 1:
            return GGMLQuantizationType.F32
        base = _MIXED.get(self.quantization, self.quantization)
        if self.quantization in ("F32", "F16", "BF16", "Q8_0"):
            return GGMLQuantizationType[base]
        is_output = tensor == ("token_embd.weight" if self.shape.get("tied") else "output.weight")
        if is_output:
            return GGMLQuantizationType.Q6_K
        if self.quantization in _MIXED and (".attn_v." in tensor or ".ffn_down." in tensor):
            layer, n_layer = int(tensor.split(".")[1]), int(self.shape["n_layer"])
            eighth = n_layer // 8
            if layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2:
                return GGMLQuantizationType.Q6_K
        return GGMLQuantizationType[base]

    def write(self, path: Path, seed: int = 0, on_progress: WriteProgress | None = None) -> None:
        """Write the model; the file appears once it is whole.

        Raises:
            DiskSpaceError: there is no room for it.
            TargetError: the file can't be written.
        """
        total = self.n_bytes
        require_space(path.parent, total + (1 << 24), f"a model of the shape {self.name}")
        rng = np.random.default_rng(seed)
        std = float(self.shape["n_embd"]) ** -0.5
        pools: dict[GGMLQuantizationType, npt.NDArray[np.uint8]] = {}
        written = 0
        with replacing(path) as part:
            writer = self._head(part)
            for tensor, dims, kind in self._tensors():
                writer.add_tensor_info(
                    tensor, dims, np.dtype(np.float32), _n_bytes(dims, kind), raw_dtype=kind
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for _, dims, kind in self._tensors():
                if kind not in pools:
                    values = rng.standard_normal((_POOL // 256, 256), np.float32) * std
                    pools[kind] = quantize_rows(values, kind)
                writer.write_tensor_data(np.resize(pools[kind], _n_bytes(dims, kind)))
                written += _n_bytes(dims, kind)
                if on_progress is not None:
                    on_progress(written, total)
            writer.close()

    def _head(self, path: Path) -> GGUFWriter:
        shape = self.shape
        family = {"qwe": "qwen2", "gem": "gemma3", "lla": "llama"}[self.name[:3]]
        writer = GGUFWriter(path, family)
        writer.add_name(f"{self.name}, random weights")
        writer.add_context_length(32768)
        writer.add_block_count(shape["n_layer"])
        writer.add_embedding_length(shape["n_embd"])
        writer.add_feed_forward_length(shape["n_ff"])
        writer.add_head_count(shape["n_head"])
        writer.add_head_count_kv(shape["n_head_kv"])
        writer.add_key_length(shape["head_dim"])
        writer.add_value_length(shape["head_dim"])
        writer.add_layer_norm_rms_eps(1e-6)
        if family == "gemma3":
            writer.add_sliding_window(1024)
        add_vocabulary(writer, shape["n_vocab"])
        return writer


def parse_synthetic(text: str) -> dict[Role, SyntheticModel]:
    """Read ``FAMILY-SMALL+LARGE:TYPE``, as in ``qwen2.5-1.5b+7b:Q4_K_M``.

    Raises:
        UsageError: not of that form, or a shape or a type that is not known.
    """
    names, _, quantization = text.partition(":")
    small, plus, large = names.partition("+")
    large = f"{small.rpartition('-')[0]}-{large}"
    shapes = presets_content()["shapes"]
    known = [*_MIXED, *_PLAIN]
    quantization = (quantization or "Q4_K_M").upper()
    if not plus or small not in shapes or large not in shapes:
        raise UsageError(
            f"synthetic: {text!r} is not FAMILY-SMALL+LARGE:TYPE, as in qwen2.5-1.5b+7b:Q4_K_M; "
            f"the shapes are {', '.join(shapes)}"
        )
    if quantization not in known:
        raise UsageError(f"synthetic: {quantization!r} is not one of {', '.join(known)}")
    of_small = SyntheticModel(small, quantization)
    return {
        Role.LARGE_INS: SyntheticModel(large, quantization),
        Role.SMALL_CPT: of_small,
        Role.SMALL_BASE: of_small,
    }


def tensors(name: str, shape: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, rows first, of the tensors of a model of ``presets.toml``."""
    embd, ff, head_dim = shape["n_embd"], shape["n_ff"], shape["head_dim"]
    q, kv = shape["n_head"] * head_dim, shape["n_head_kv"] * head_dim
    yield "token_embd.weight", (shape["n_vocab"], embd)
    yield "output_norm.weight", (embd,)
    if not shape.get("tied"):
        yield "output.weight", (shape["n_vocab"], embd)
    for i in range(shape["n_layer"]):
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (embd,),
            "ffn_norm": (embd,),
            "attn_q": (q, embd),
            "attn_k": (kv, embd),
            "attn_v": (kv, embd),
            "attn_output": (embd, q),
            "ffn_gate": (ff, embd),
            "ffn_up": (ff, embd),
            "ffn_down": (embd, ff),
        }
        if name.startswith("gemma"):
            layer |= {"attn_q_norm": (head_dim,), "attn_k_norm": (head_dim,)}
            layer |= {"post_attention_norm": (embd,), "post_ffw_norm": (embd,)}
        yield from ((f"blk.{i}.{tensor}.weight", dims) for tensor, dims in layer.items())
        if name.startswith("qwen"):
            yield f"blk.{i}.attn_q.bias", (q,)
            yield from ((f"blk.{i}.attn_{x}.bias", (kv,)) for x in "kv")


def _n_bytes(dims: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    n_bytes: int = int(np.prod(dims)) // block * block_bytes
    return n_bytes


def add_vocabulary(writer: GGUFWriter, n_vocab: int) -> None:
    """Every byte, as byte-level BPE spells it, an end, words that no merge leads to, and padding as
    in Qwen2.5's embeddings, which differs from size to size."""
    n_tokens = min(n_vocab, _QWEN_TOKENS)
    names = [*_byte_letters(), "<|end|>", *(f"w{n}" for n in range(n_vocab - 257))]
    types = [TokenType.NORMAL] * n_tokens + [TokenType.UNUSED] * (n_vocab - n_tokens)
    types[256] = TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: visible ones stand for themselves."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = 256 - len(visible)
    return [chr(b) for b in visible] + [chr(256 + n) for n in range(hidden)]
