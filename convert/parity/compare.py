"""Is every file the one llama.cpp's own converter writes? (development only; needs PyTorch)

For each architecture a random-weight checkpoint with a real tokenizer is converted twice, by
trimix_convert and by convert_hf_to_gguf.py of the pinned llama-cpp-python's source distribution,
to every outtype. Then every tensor's name, type, shape and bytes are compared and every metadata
key; the same for a LoRA adapter. Last, the token ids of 200 lines, from llama.cpp on the converted
file, against Hugging Face's tokenizers.

    python convert/parity/compare.py LLAMA_CPP_FOLDER [--only NAME] [--scratch FOLDER]

Needs torch, transformers, tokenizers, sentencepiece and llama_cpp beside this project, and npm.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import N_EMBD, N_LAYERS, SUBJECTS, Subject, make_adapter, make_checkpoint
from gguf import GGUFReader, ReaderField
from trimix_convert import convert_adapter, convert_checkpoint

OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")

# Keys that say what llama.cpp assumes without them: end of the key, and that value.
DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("tokenizer.ggml.add_sep_token", False),
    ("qwen2.attention.key_length", N_EMBD // 4),
    ("qwen2.attention.value_length", N_EMBD // 4),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("llama_cpp", type=Path, help="folder with convert_hf_to_gguf.py")
    parser.add_argument("--only", choices=[subject.name for subject in SUBJECTS])
    parser.add_argument("--scratch", type=Path, help="keeps checkpoints and tokenizers here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        complaints = 0
        for subject in SUBJECTS:
            if arguments.only in (None, subject.name):
                complaints += examine(subject, scratch, arguments.llama_cpp)
    print("equal" if not complaints else f"{complaints} differences")
    return 1 if complaints else 0


def examine(subject: Subject, scratch: Path, llama_cpp: Path) -> int:
    """Compare one architecture; the number of differences, each of which is printed."""
    folder = scratch / "checkpoints" / subject.name
    if not (folder / "model.safetensors").is_file():
        make_checkpoint(subject, scratch / "tokenizers", folder)
    differences: list[str] = []
    n_tensors = n_keys = 0
    for outtype in OUTTYPES:
        ours, theirs = (scratch / f"{subject.name}.{who}.gguf" for who in ("ours", "theirs"))
        convert_checkpoint(folder, ours, outtype=outtype)
        run(llama_cpp / "convert_hf_to_gguf.py", folder, theirs, outtype)
        a, b = GGUFReader(ours), GGUFReader(theirs)
        differences += [f"{outtype}: {text}" for text in (*tensors(a, b), *metadata(a, b))]
        n_tensors, n_keys = len(b.tensors), len(b.fields)
        del a, b
        gc.collect()
        theirs.unlink()
    n_lines, wrong = token_ids(folder, ours)
    differences += wrong
    if subject.sentencepiece:
        (folder / "tokenizer.model").rename(folder / "aside")
        try:
            convert_checkpoint(folder, ours)
            differences += [f"without tokenizer.model: {w}" for w in token_ids(folder, ours)[1]]
        finally:
            (folder / "aside").rename(folder / "tokenizer.model")
    ours.unlink()
    differences += adapter(folder, scratch, llama_cpp)
    for text in differences:
        print(f"{subject.name}: {text}")
    print(
        f"{subject.name}: {n_tensors} tensors and {n_keys} keys x {len(OUTTYPES)} outtypes, "
        f"an adapter, {n_lines} lines: {len(differences)} differences",
        flush=True,
    )
    return len(differences)


def adapter(base: Path, scratch: Path, llama_cpp: Path) -> list[str]:
    """The same for a LoRA adapter on a checkpoint."""
    folder = scratch / "adapter"
    make_adapter(base, folder)
    ours, theirs = scratch / "adapter.ours.gguf", scratch / "adapter.theirs.gguf"
    convert_adapter(folder, ours, base=base)
    run(llama_cpp / "convert_lora_to_gguf.py", folder, theirs, "f32", "--base", str(base))
    a, b = GGUFReader(ours), GGUFReader(theirs)
    found = [f"adapter: {text}" for text in (*tensors(a, b), *metadata(a, b))]
    assert len(b.tensors) == 2 * 7 * N_LAYERS
    del a, b
    gc.collect()
    ours.unlink()
    theirs.unlink()
    return found


def run(script: Path, source: Path, target: Path, outtype: str, *options: str) -> None:
    """Run one of llama.cpp's scripts, which exit on errors and are best kept at arm's length."""
    result = subprocess.run(
        [
            *(sys.executable, str(script), str(source)),
            *("--outfile", str(target), "--outtype", outtype, *options),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if result.returncode:
        raise SystemExit(f"{script.name} failed:\n{result.stderr[-3000:]}")


def tensors(ours: GGUFReader, theirs: GGUFReader) -> list[str]:
    """Differences between the tensors of two files."""
    a = {tensor.name: tensor for tensor in ours.tensors}
    b = {tensor.name: tensor for tensor in theirs.tensors}
    found = [f"tensor {name} only in one file" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        x, y = a[name], b[name]
        if x.tensor_type != y.tensor_type or list(x.shape) != list(y.shape):
            found.append(f"tensor {name}: {x.tensor_type.name} {x.shape}, {y.tensor_type.name}")
        elif not np.array_equal(x.data.view(np.uint8), y.data.view(np.uint8)):
            found.append(f"tensor {name}: other bytes")
    return found


def metadata(ours: GGUFReader, theirs: GGUFReader) -> list[str]:
    """Differences between the metadata of two files: names, GGUF types and values."""
    # Keys of this project say what GGUF has no words for; no other converter writes them.
    a, b = (
        {
            name: field
            for name, field in reader.fields.items()
            if not name.startswith(("GGUF.", "trimix."))
        }
        for reader in (ours, theirs)
    )
    found = []
    for name in sorted(a.keys() | b.keys()):
        x, y = a.get(name), b.get(name)
        if x and y and stored_bytes(x) == stored_bytes(y):
            continue
        values = [None if field is None else field.contents() for field in (x, y)]
        assumed = [value for suffix, value in DEFAULTS if name.endswith(suffix)]
        if all(value in (None, *assumed) for value in values) and assumed:
            continue
        found.append(f"key {name}: {values[0]!r:.80} against {values[1]!r:.80}")
    return found


def stored_bytes(field: ReaderField) -> bytes:
    """A key's type and value as the file has them."""
    return b"".join(part.tobytes() for part in field.parts)


def token_ids(folder: Path, converted: Path) -> tuple[int, list[str]]:
    """How many lines were compared, and those whose token ids differ from Hugging Face's."""
    import llama_cpp
    from tokenizers import Tokenizer

    lines = json.loads((Path(__file__).parents[2] / "tests/convert/lines.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    silent = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(converted).encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    wrong = []
    for line in lines:
        data = line.encode()
        buffer = (llama_cpp.llama_token * (len(data) + 8))()
        n = llama_cpp.llama_tokenize(vocab, data, len(data), buffer, len(buffer), False, True)
        expected = tokenizer.encode(line, add_special_tokens=False).ids
        if buffer[:n] != expected:
            wrong.append(f"line {line!r}: {buffer[:n]} against {expected}")
    llama_cpp.llama_model_free(model)
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))
    return len(lines), wrong


if __name__ == "__main__":
    sys.exit(main())
