"""Gemma3ForCausalLM, and the text part of Gemma3ForConditionalGeneration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gguf import GGUFWriter

from ..config import Config
from ..errors import CheckpointError
from ..vocab import Vocabulary
from .base import AddOne, Architecture, TensorPlan
from .rope import RopeSupport

# llama.cpp's default: every sixth layer attends to everything.
_PATTERN = 6


class Gemma3(Architecture):
    """Gemma 3: four norms a layer, sliding windows in most layers, norms stored less one."""

    name = "gemma3"
    activation = "gelu_pytorch_tanh"
    rope_support = RopeSupport(frozenset({"default", "linear"}), local=True)
    default_n_heads = 8
    default_n_kv_heads = 4
    default_head_dim = 256
    default_n_vocab = 262_208
    default_context = 131_072
    default_rope_theta = 1_000_000.0
    default_tied = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.get("attn_logit_softcapping") is not None or config.flag(
            "use_bidirectional_attention"
        ):
            raise CheckpointError("config.json: llama.cpp's gemma3 has no such attention")
        if config.flag("attention_bias"):
            raise CheckpointError("config.json: llama.cpp's gemma3 has no attention biases")
        # llama.cpp knows the 27B model by its 62 layers and scales its queries by another width.
        width = self.n_embd // self.n_heads if self.n_layers == 62 else self.head_dim
        if config.number("query_pre_attn_scalar", 256.0) != width:
            raise CheckpointError(
                f"config.json: llama.cpp's gemma3 scales queries by {width}, "
                f"not by {config.get('query_pre_attn_scalar')}"
            )
        self.is_sliding = self._sliding_layers()

    def _sliding_layers(self) -> list[bool]:
        """Which layers see a window only: listed by name, or all but every n-th."""
        kinds = self.config.get("layer_types")
        if kinds is None:
            every = self.config.integer("sliding_window_pattern", _PATTERN)
            return [(layer + 1) % every != 0 for layer in range(self.n_layers)]
        if not isinstance(kinds, list) or len(kinds) != self.n_layers:
            raise self.config.error("layer_types", kinds, f"a list of {self.n_layers} names")
        return [kind == "sliding_attention" for kind in kinds]

    def source_name(self, name: str) -> str:
        # The multimodal class wraps the text model, by one name or, in older files, another.
        for prefix in ("model.language_model.", "language_model.model."):
            if name.startswith(prefix):
                return "model." + name.removeprefix(prefix)
        return name.removeprefix("language_model.")

    def left_out(self, name: str) -> str | None:
        if "vision_tower." in name or "multi_modal_projector." in name:
            return "the vision tower and its projector"
        return super().left_out(name)

    def tensors(self) -> dict[str, TensorPlan]:
        return {
            name: replace(plan, transform=AddOne()) if name.endswith("norm.weight") else plan
            for name, plan in super().tensors().items()
        }

    def norms(self) -> Iterator[tuple[str, TensorPlan]]:
        for source, target, width in (
            ("input_layernorm", "attn_norm", self.n_embd),
            ("self_attn.q_norm", "attn_q_norm", self.head_dim),
            ("self_attn.k_norm", "attn_k_norm", self.head_dim),
            ("post_attention_layernorm", "post_attention_norm", self.n_embd),
            ("pre_feedforward_layernorm", "ffn_norm", self.n_embd),
            ("post_feedforward_layernorm", "post_ffw_norm", self.n_embd),
        ):
            yield f"{source}.weight", TensorPlan(f"{target}.weight", (width,))

    def adapt_vocabulary(self, vocabulary: Vocabulary) -> None:
        vocabulary.add_space_prefix = False

    def write_hyperparameters(self, writer: GGUFWriter) -> None:
        super().write_hyperparameters(writer)
        if self.rope.local_theta is None:
            writer.add_rope_freq_base_swa(10_000.0)
        softcap = self.config.get("final_logit_softcapping")
        if softcap is not None:
            writer.add_final_logit_softcapping(self.config.number("final_logit_softcapping", 0.0))
        if any(self.is_sliding):
            writer.add_sliding_window(self.config.integer("sliding_window", 4096))
            if self.is_sliding != [(i + 1) % _PATTERN != 0 for i in range(self.n_layers)]:
                writer.add_sliding_window_pattern(self.is_sliding)
