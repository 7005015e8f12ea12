"""Is every file the one llama.cpp's own converter writes? (development only; needs PyTorch)

For each architecture a random-weight checkpoint with a real tokenizer is converted twice, by
trimix_convert and by convert_hf_to_gguf.py of the pinned llama-cpp-python's source distribution,
to every outtype. Then every tensor's name, type, shape and bytes are compared and every metadata
key. Last, the token ids of 200 lines, from llama.cpp on the converted file, against Hugging
Face's tokenizers.

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
from checkpoints import SUBJECTS, Subject, make_checkpoint
from gguf import GGUFReader
from trimix_convert import convert_checkpoint

OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")

# Keys that one of the two leaves to llama.cpp's default, with that default: (suffix of the key,
# value) means the same as no key at all.
DEFAULTS: tuple[tuple[str, Any], ...] = ()


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
        convert_with_llama_cpp(llama_cpp, folder, theirs, outtype)
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
    for text in differences:
        print(f"{subject.name}: {text}")
    print(
        f"{subject.name}: {n_tensors} tensors and {n_keys} keys x {len(OUTTYPES)} outtypes, "
        f"{n_lines} lines: {len(differences)} differences",
        flush=True,
    )
    return len(differences)


def convert_with_llama_cpp(llama_cpp: Path, source: Path, target: Path, outtype: str) -> None:
    """Run convert_hf_to_gguf.py, which exits on errors and is best kept at arm's length."""
    command = [
        *(sys.executable, str(llama_cpp / "convert_hf_to_gguf.py"), str(source)),
        *("--outfile", str(target), "--outtype", outtype),
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if result.returncode:
        raise SystemExit(f"llama.cpp's converter failed:\n{result.stderr[-3000:]}")


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
    """Differences between the metadata of two files: values and their GGUF types."""
    a, b = (
        {
            name: (field.contents(), field.types)
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        }
        for reader in (ours, theirs)
    )
    found = []
    for name in sorted(a.keys() | b.keys()):
        x, y = a.get(name), b.get(name)
        if x == y:
            continue
        present = x or y
        if (x is None or y is None) and any(
            name.endswith(suffix) and present[0] == value for suffix, value in DEFAULTS
        ):
            continue
        found.append(f"key {name}: {brief(x)} against {brief(y)}")
    return found


def brief(entry: Any) -> str:
    if entry is None:
        return "nothing"
    value = entry[0]
    return f"{len(value)} items" if isinstance(value, list) and len(value) > 8 else repr(value)[:80]


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
