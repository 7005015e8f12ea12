"""Tiny real models: seeded random Llama checkpoints, made GGUF by the project's own converter.

Nothing random is committed: the weights come from NumPy's legacy generator, whose stream is frozen
for good, so that the goldens of ``integration/make_goldens.py`` belong to these very models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

GREEDY_TRIO = Path(__file__).parent / "greedy"
"""A manifest that asks for greedy decoding, which files alone would not have."""

Tensors = dict[str, npt.NDArray[np.float32]]

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, TURN, TURN_END)
N_VOCAB = 384
WORDS = (
    " the", " of", " and", " to", " in", " is", " that", " for", " it", " save", " file",
    " window", " open", " close", " click", " name", " page", "ing", "ation", " སྒོ་",
    " ཡིག་སྣོད", "རྫོང་ཁ", "བོད་ཡིག", "འདི་", "ལུ་", "གི་", "ཨིན།",
)  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama; heads are 32 wide."""

    hidden: int = 64
    layers: int = 2
    kv_heads: int = 1
    ffn: int = 128
    n_ctx: int = 512

    @property
    def heads(self) -> int:
        return self.hidden // 32


SMALL = Shape()
LARGE = Shape(hidden=96, layers=3, ffn=192)


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: printable ones stand for themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def tokenizer() -> dict[str, Any]:
    """A byte-level BPE ``tokenizer.json``; its words grow letter by letter."""
    letters = byte_letters()
    vocab = {letter: i for i, letter in enumerate(sorted(letters))}
    merges: list[list[str]] = []
    for word in WORDS:
        spelt = [letters[byte] for byte in word.encode()]
        token = spelt[0]
        for letter in spelt[1:]:
            if token + letter not in vocab and len(vocab) < N_VOCAB - len(SPECIAL):
                merges.append([token, letter])
                vocab[token + letter] = len(vocab)
            token += letter
    added = [
        {"id": len(vocab) + i, "content": text, "special": True, "normalized": False,
         "single_word": False, "lstrip": False, "rstrip": False}
        for i, text in enumerate(SPECIAL)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": False},
    }


def random_tensors(shape: Shape, seed: int, n_vocab: int = N_VOCAB) -> Tensors:
    """Weights that give logits of standard deviation 3 and attention that looks back."""
    random = np.random.RandomState(seed)
    head = 32

    def matrix(rows: int, columns: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return (random.randn(rows, columns) * scale / np.sqrt(columns)).astype(np.float32)

    def norm() -> npt.NDArray[np.float32]:
        return (1 + 0.1 * random.randn(shape.hidden)).astype(np.float32)

    tensors: Tensors = {}
    for i in range(shape.layers):
        layer, kv = f"model.layers.{i}", shape.kv_heads * head
        tensors |= {
            f"{layer}.input_layernorm.weight": norm(),
            f"{layer}.self_attn.q_proj.weight": matrix(shape.heads * head, shape.hidden, 1.5),
            f"{layer}.self_attn.k_proj.weight": matrix(kv, shape.hidden, 1.5),
            f"{layer}.self_attn.v_proj.weight": matrix(kv, shape.hidden, 1.5),
            f"{layer}.self_attn.o_proj.weight": matrix(shape.hidden, shape.heads * head, 1.5),
            f"{layer}.post_attention_layernorm.weight": norm(),
            f"{layer}.mlp.gate_proj.weight": matrix(shape.ffn, shape.hidden, 1.5),
            f"{layer}.mlp.up_proj.weight": matrix(shape.ffn, shape.hidden, 1.5),
            f"{layer}.mlp.down_proj.weight": matrix(shape.hidden, shape.ffn, 1.5),
        }
    tensors["model.norm.weight"] = norm()
    # Rows of a larger vocabulary are more rows: the first ones stay as they are.
    tensors["lm_head.weight"] = matrix(n_vocab, shape.hidden, 3.0)
    embedding = np.random.RandomState(seed + 1).randn(n_vocab, shape.hidden)
    tensors["model.embed_tokens.weight"] = embedding.astype(np.float32)
    return tensors


def trio_tensors() -> dict[str, tuple[Shape, Tensors]]:
    """A large model, a small one, and the small one after "training": moved some way off."""
    base = random_tensors(SMALL, seed=20)
    moved = random_tensors(SMALL, seed=30)
    cpt = {name: (0.8 * base[name] + 0.6 * moved[name]).astype(np.float32) for name in base}
    return {
        "large_ins": (LARGE, random_tensors(LARGE, seed=10)),
        "small_cpt": (SMALL, cpt),
        "small_base": (SMALL, base),
    }


def write_checkpoint(
    folder: Path, shape: Shape, tensors: Tensors, tokenizer_json: dict[str, Any] | None = None
) -> Path:
    """A checkpoint as the Hub would serve it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_json = tokenizer_json or tokenizer()
    ids = {token["content"]: token["id"] for token in tokenizer_json["added_tokens"]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tensors["lm_head.weight"]),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": 32,
        "max_position_embeddings": shape.n_ctx,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": ids[END],
        "eos_token_id": ids[END],
    }
    files: dict[str, dict[str, Any]] = {
        "config.json": config,
        "tokenizer.json": tokenizer_json,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "bos_token": END,
            "add_bos_token": False,
            "chat_template": CHATML,
        },
        "generation_config.json": {"eos_token_id": [ids[END], ids[TURN_END]]},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_gguf(
    folder: Path,
    name: str,
    shape: Shape,
    tensors: Tensors,
    tokenizer_json: dict[str, Any] | None = None,
    *,
    pre: str | None = None,
) -> Path:
    """The same, converted to a GGUF file of F32."""
    from trimix_convert import convert_checkpoint

    checkpoint = write_checkpoint(folder / name, shape, tensors, tokenizer_json)
    target = folder / f"{name}.gguf"
    convert_checkpoint(checkpoint, target, outtype="f32", pre=pre)
    return target


def write_trio(folder: Path) -> dict[str, Path]:
    """The GGUF files of the tiny trio, by role."""
    return {
        role: write_gguf(folder, role, shape, tensors)
        for role, (shape, tensors) in trio_tensors().items()
    }


def edit_gguf(
    source: Path,
    target: Path,
    changes: Mapping[str, Any],
    *,
    drop: str = "\0",
    with_tensors: bool = True,
) -> Path:
    """A copy with some metadata changed, and without the keys that begin with ``drop``."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    fields = {name: f for name, f in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = fields.pop("general.architecture").contents()
    writer = GGUFWriter(target, architecture)
    for name, field in fields.items():
        if name in changes or name.startswith(drop):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)
    for name, value in changes.items():
        kind = GGUFValueType.get_type(value)
        if kind == GGUFValueType.INT32:
            kind = GGUFValueType.UINT32
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors if with_tensors else ():
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def retyped(source: Path, target: Path, tensor: bytes, kind: int) -> Path:
    """A copy in which a tensor claims another type: name, dimensions and sizes come before it."""
    data = bytearray(source.read_bytes())
    at = data.index(tensor) + len(tensor)
    at += 4 + 8 * data[at]
    data[at] = kind
    target.write_bytes(data)
    return target
