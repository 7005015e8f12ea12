"""Writes checkpoints/ and goldens/: tiny random models of every architecture, and the truth.

Each checkpoint is a folder as the Hub would serve it, a few tens of kilobytes; each golden file
holds what transformers and tokenizers make of it:

    input_ids    int64 [n]             a prompt of random tokens
    logits       float32 [n, vocab]    after each of them, computed in float32
    line_ids     uint16 [m]            the token ids of lines.json, one line after the other
    line_ends    int32 [200]           where each line ends in them

Needs torch, transformers and sentencepiece, which the tests do not:

    python tests/convert/make_checkpoints.py
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

HERE = Path(__file__).parent
LINES: list[str] = json.loads((HERE / "lines.json").read_text("utf-8"))

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
QWEN35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(expression: str, specials: list[str], n_vocab: int, **options: Any) -> Tokenizer:
    """A byte-level BPE tokenizer trained on the lines, its added tokens after its own."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - len(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    return tokenizer


def sentencepiece_model(n_vocab: int, **options: Any) -> bytes:
    """A SentencePiece BPE model, trained on Tibetan and Dzongkha: all else becomes bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES[:41]),
        model_writer=model,
        vocab_size=n_vocab,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def from_sentencepiece(model: bytes, prefix_space: bool) -> Tokenizer:
    """The same vocabulary as Hugging Face writes it into tokenizer.json."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    made = [
        (pieces.get_score(i), (piece[:cut], piece[cut:]))
        for piece, i in vocab.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    merges = [pair for _, pair in sorted(made, key=lambda entry: -entry[0])]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    steps = [normalizers.Prepend("▁")] if prefix_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    for i in range(pieces.get_piece_size()):
        text = pieces.id_to_piece(i)
        if pieces.is_control(i) or pieces.is_unknown(i):
            tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    return tokenizer


def save(
    name: str,
    config: transformers.PretrainedConfig,
    tokenizer: Tokenizer,
    tokenizer_config: dict[str, Any],
    dtype: torch.dtype,
    files: dict[str, bytes | str] | None = None,
    **options: Any,
) -> None:
    """Write one checkpoint with random weights and its golden file."""
    folder = HERE / "checkpoints" / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(sum(name.encode()))
    model = getattr(transformers, config.architectures[0])(config).eval()
    with torch.no_grad():
        for key, weights in model.named_parameters():
            centre = 1.0 if key.endswith("norm.weight") and "gemma" not in name else 0.0
            weights.normal_(centre, 0.2 if weights.dim() < 2 else weights.shape[-1] ** -0.5)
            if key.endswith("post_feedforward_layernorm.weight"):
                # llama.cpp looks GELU up in a table of float16: keep its error out of the logits.
                weights -= 0.75
    model.to(dtype).save_pretrained(folder, **options)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1), "utf-8")
    for file_name, content in (files or {}).items():
        data = content.encode() if isinstance(content, str) else content
        (folder / file_name).write_bytes(data)

    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, tokenizer.get_vocab_size(), (1, 24), generator=generator)
    # Loaded anew: `model.float()` would keep rotary frequencies rounded to the stored type.
    model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].numpy()
    encoded = [tokenizer.encode(line, add_special_tokens=False).ids for line in LINES]
    goldens = HERE / "goldens"
    goldens.mkdir(exist_ok=True)
    np.savez_compressed(
        goldens / f"{name}.npz",
        input_ids=ids[0].numpy(),
        logits=logits,
        line_ids=np.concatenate(encoded).astype(np.uint16),
        line_ends=np.cumsum([len(ids) for ids in encoded]).astype(np.int32),
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB, {len(np.concatenate(encoded))} ids")


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def make_llama2() -> None:
    """SentencePiece, float16, one key-value head a head, two shards, a model card."""
    model = sentencepiece_model(352)
    config = transformers.LlamaConfig(
        **{**SMALL, "num_key_value_heads": 4, "num_hidden_layers": 1},
        vocab_size=352,
        architectures=["LlamaForCausalLM"],
    )
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    card = (
        "---\nlicense: apache-2.0\nlanguage:\n- bo\n- en\nbase_model: someone/Tiny-7b\n---\n"
        "# Tiny\n"
    )
    save(
        "llama2",
        config,
        from_sentencepiece(model, prefix_space=True),
        settings,
        torch.float16,
        {"tokenizer.model": model, "README.md": card},
        max_shard_size="40KB",
    )


def make_llama3() -> None:
    """Byte-level BPE that ignores merges, stretched rotary frequencies, tied, bfloat16."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer = byte_level(LLAMA3, specials, 320, ignore_merges=True)
    begin = tokenizer.token_to_id(specials[0])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{specials[0]} $A", special_tokens=[(specials[0], begin)]
            ),
        ]
    )
    config = transformers.LlamaConfig(
        **SMALL,
        vocab_size=320,
        architectures=["LlamaForCausalLM"],
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        bos_token_id=begin,
        eos_token_id=[begin + 1, begin + 2],
    )
    settings = {"bos_token": specials[0], "eos_token": specials[2], "chat_template": "{{ bos }}"}
    save("llama3", config, tokenizer, settings, torch.bfloat16)


def make_qwen(version: int) -> None:
    """Byte-level BPE, more embedding rows than tokens; Qwen 3 untied and in float32."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(QWEN2, specials, 310)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    common = {**SMALL, "vocab_size": 320, "bos_token_id": tokenizer.token_to_id("<|endoftext|>")}
    config: transformers.PretrainedConfig
    if version == 2:
        config = transformers.Qwen2Config(
            **common, architectures=["Qwen2ForCausalLM"], tie_word_embeddings=True
        )
    else:
        config = transformers.Qwen3Config(
            **{**common, "num_hidden_layers": 1, "intermediate_size": 32},
            architectures=["Qwen3ForCausalLM"],
            head_dim=16,
        )
    settings = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    save(
        f"qwen{version}",
        config,
        tokenizer,
        settings,
        torch.bfloat16 if version == 2 else torch.float32,
        {"chat_template.jinja": CHATML},
    )


def make_trio_member() -> None:
    """The embedded trio's shape: Llama, tied, Qwen 3.5's pre-tokenizer, ends of its own."""
    tokenizer = byte_level(QWEN35, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 320)
    config = transformers.LlamaConfig(
        **{**SMALL, "num_hidden_layers": 1},
        vocab_size=320,
        architectures=["LlamaForCausalLM"],
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    newline = tokenizer.token_to_id("Ċ")
    ends = [tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_end|>"), newline]
    settings = {
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    }
    generation = json.dumps({"eos_token_id": ends})
    save(
        "trio",
        config,
        tokenizer,
        settings,
        torch.float32,
        {"generation_config.json": generation},
    )


def make_gemma3(multimodal: bool) -> None:
    """SentencePiece without a leading space, windows in all layers but some, norms less one."""
    model = sentencepiece_model(
        352,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        control_symbols=["<start_of_turn>", "<end_of_turn>"],
        user_defined_symbols=["\n\n", "▁▁", "<table>"],
    )
    tokenizer = from_sentencepiece(model, prefix_space=False)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "▁▁", "<table>")])
    tokenizer.add_special_tokens([AddedToken("<image_soft_token>", special=True)])
    text = {
        **SMALL,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 8,
        "vocab_size": 352,
        "num_hidden_layers": 6,
    }
    settings = {
        "bos_token": "<bos>",
        "eos_token": "<end_of_turn>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "added_tokens_decoder": {
            str(i): {"content": token.content, "special": token.special}
            for i, token in tokenizer.get_added_tokens_decoder().items()
        },
    }
    config: transformers.PretrainedConfig
    if multimodal:
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        text |= {"num_hidden_layers": 3, "layer_types": kinds, "vocab_size": 356}
        config = transformers.Gemma3Config(
            text_config=text,
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 28,
                "patch_size": 14,
            },
            mm_tokens_per_image=4,
            image_token_index=352,
            architectures=["Gemma3ForConditionalGeneration"],
        )
    else:
        config = transformers.Gemma3TextConfig(**text, architectures=["Gemma3ForCausalLM"])
    save(
        "gemma3_multimodal" if multimodal else "gemma3",
        config,
        tokenizer,
        settings,
        torch.bfloat16,
        {"tokenizer.model": model},
    )


if __name__ == "__main__":
    make_llama2()
    make_llama3()
    make_qwen(2)
    make_qwen(3)
    make_trio_member()
    make_gemma3(multimodal=False)
    make_gemma3(multimodal=True)
