"""What the decoder-only families share: hyperparameters, tensor names and the hooks to differ.

A family says which tensors its checkpoints hold, in which shape, under which name GGUF wants
them, and whether their numbers change on the way. That one table serves three purposes:
renaming, checking shapes against config.json, and noticing what is missing or unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from gguf import GGUFWriter

from ..config import Config
from ..encode import Block, as_float32
from ..errors import CheckpointError
from ..tensor import ArrayTensor, Tensor
from ..vocab import Vocabulary
from .rope import Rope, RopeSupport, read_rope


class Transform(Protocol):
    """A change of a tensor's numbers that works on whole groups of `granule` rows."""

    @property
    def granule(self) -> int:
        """The rows that must come together."""

    def __call__(self, block: Block, dtype: str) -> tuple[Block, str]:
        """The changed block and its safetensors type; as many rows out as in."""


@dataclass(frozen=True)
class AddOne:
    """Norm weights that a checkpoint stores as their distance from one (Gemma)."""

    granule: int = 1

    def __call__(self, block: Block, dtype: str) -> tuple[Block, str]:
        return as_float32(block, dtype) + 1, "F32"


@dataclass(frozen=True)
class InterleaveHalves:
    """Rows of a query or key projection, reordered for llama.cpp's "llama" rotary embedding.

    Hugging Face rotates the pairs (i, i + head_dim / 2) of a head, llama.cpp the neighbours
    (2 i, 2 i + 1); the projection's rows move accordingly. The granule is one head.
    """

    granule: int

    def __call__(self, block: Block, dtype: str) -> tuple[Block, str]:
        halves = block.reshape(-1, 2, self.granule // 2, *block.shape[1:])
        return halves.swapaxes(1, 2).reshape(block.shape), dtype


@dataclass(frozen=True)
class TensorPlan:
    """Where a checkpoint's tensor goes: its GGUF name, the shape it must have, what changes."""

    target: str
    shape: tuple[int, ...]
    transform: Transform | None = None


class Architecture:
    """A decoder-only transformer: RMS norms, rotary positions, gated feed-forward layers.

    Subclasses set `name` and override the hooks. Raises CheckpointError on a configuration
    that contradicts itself or asks for what llama.cpp does not compute.
    """

    #: llama.cpp's name for the architecture (`general.architecture`).
    name: ClassVar[str]
    #: The only feed-forward activation that llama.cpp has for it.
    activation: ClassVar[str] = "silu"
    #: What it computes of rotary positions.
    rope_support: ClassVar[RopeSupport] = RopeSupport()

    # What Hugging Face's configuration class assumes where config.json is silent; None where a
    # derived value stands in, or where config.json has to say.
    default_n_heads: ClassVar[int | None] = None
    default_n_kv_heads: ClassVar[int | None] = None
    default_head_dim: ClassVar[int | None] = None
    default_n_vocab: ClassVar[int | None] = None
    default_context: ClassVar[int] = 2048
    default_rope_theta: ClassVar[float] = 10_000.0
    default_tied: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config
        self.notes: list[str] = []
        if config.get("quantization_config"):
            raise CheckpointError(
                "config.json says that the weights are quantised: convert the original ones"
            )
        activation = config.get("hidden_activation") or config.get("hidden_act")
        if activation not in (None, self.activation):
            raise CheckpointError(
                f"config.json asks for the activation {str(activation)[:40]!r}: "
                f"llama.cpp's {self.name} computes {self.activation}"
            )
        self.n_layers = config.integer("num_hidden_layers")
        self.n_embd = config.integer("hidden_size")
        self.n_ff = config.integer("intermediate_size")
        self.n_heads = config.integer("num_attention_heads", self.default_n_heads)
        self.n_kv_heads = config.integer(
            "num_key_value_heads", self.default_n_kv_heads or self.n_heads
        )
        self.head_dim = config.integer(
            "head_dim", self.default_head_dim or max(1, self.n_embd // self.n_heads)
        )
        self.n_vocab = config.integer("vocab_size", self.default_n_vocab)
        self.context = config.integer("max_position_embeddings", self.default_context)
        self.tied = config.flag("tie_word_embeddings", self.default_tied)
        if self.n_heads % self.n_kv_heads or self.head_dim % 2 or self.n_layers > 10_000:
            raise CheckpointError(
                f"config.json: {self.n_heads} heads of width {self.head_dim}, "
                f"{self.n_kv_heads} key-value heads and {self.n_layers} layers cannot be"
            )
        self.rope: Rope = read_rope(
            config, self.default_rope_theta, self.context, self.head_dim, self.rope_support
        )
        self.notes += self.rope.notes

    def source_name(self, name: str) -> str:
        """A tensor's name as `tensors` spells it, whatever wraps the text model."""
        return name

    def left_out(self, name: str) -> str | None:
        """What a tensor that GGUF has no use for belongs to; None for one that goes along.

        An empty string leaves it out without a word in the report.
        """
        if name.endswith(".rotary_emb.inv_freq"):
            return ""
        if name == "lm_head.weight" and self.tied:
            return "lm_head, tied to the embedding in config.json"
        return None

    def tensors(self) -> dict[str, TensorPlan]:
        """Every tensor of a checkpoint of this family, by its name there."""
        embedding = (self.n_vocab, self.n_embd)
        plans = {
            "model.embed_tokens.weight": TensorPlan("token_embd.weight", embedding),
            "model.norm.weight": TensorPlan("output_norm.weight", (self.n_embd,)),
        }
        if not self.tied:
            plans["lm_head.weight"] = TensorPlan("output.weight", embedding)
        for source, plan in (*self.projections(), *self.norms()):
            for layer in range(self.n_layers):
                target = f"blk.{layer}.{plan.target}"
                plans[f"model.layers.{layer}.{source}"] = replace(plan, target=target)
        return plans

    def projections(self) -> Iterator[tuple[str, TensorPlan]]:
        """The matrices of one layer and their biases: names below `model.layers.N.`."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        for source, target, n_out, n_in in (
            ("self_attn.q_proj", "attn_q", q, self.n_embd),
            ("self_attn.k_proj", "attn_k", kv, self.n_embd),
            ("self_attn.v_proj", "attn_v", kv, self.n_embd),
            ("self_attn.o_proj", "attn_output", self.n_embd, q),
            ("mlp.gate_proj", "ffn_gate", self.n_ff, self.n_embd),
            ("mlp.up_proj", "ffn_up", self.n_ff, self.n_embd),
            ("mlp.down_proj", "ffn_down", self.n_embd, self.n_ff),
        ):
            transform = self.projection_transform(target)
            yield f"{source}.weight", TensorPlan(f"{target}.weight", (n_out, n_in), transform)
            if self.has_bias(target):
                yield f"{source}.bias", TensorPlan(f"{target}.bias", (n_out,), transform)

    def norms(self) -> Iterator[tuple[str, TensorPlan]]:
        """The norms of one layer: names below `model.layers.N.`."""
        width = (self.n_embd,)
        yield "input_layernorm.weight", TensorPlan("attn_norm.weight", width)
        yield "post_attention_layernorm.weight", TensorPlan("ffn_norm.weight", width)

    def projection_transform(self, target: str) -> Transform | None:
        """The change of a projection's rows, by its GGUF name."""
        return None

    def has_bias(self, target: str) -> bool:
        """Whether a projection has a bias, by its GGUF name."""
        return target.startswith("attn_") and self.config.flag("attention_bias")

    def extra_tensors(self) -> list[Tensor]:
        """Tensors computed from the configuration, under their GGUF names."""
        if self.rope.divisors is None:
            return []
        return [ArrayTensor("rope_freqs.weight", self.rope.divisors)]

    def adapt_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Correct what the tokenizer files leave open, in place."""

    def write_hyperparameters(self, writer: GGUFWriter) -> None:
        """Add the model's `<name>.*` keys to the writer."""
        writer.add_block_count(self.n_layers)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.n_embd)
        writer.add_feed_forward_length(self.n_ff)
        writer.add_head_count(self.n_heads)
        writer.add_head_count_kv(self.n_kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(self.config.number("rms_norm_eps", 1e-6))
        self.rope.write(writer)
