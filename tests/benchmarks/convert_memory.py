"""Memory and speed of a conversion: a synthetic bfloat16 checkpoint as large as Qwen2.5-1.5B.

    python tests/benchmarks/convert_memory.py [--layers 28] [--llama-cpp FOLDER] [--python FILE]

Peak resident memory has to stay below 300 MB plus the largest tensor. Times are ratios: to a
plain copy of the weights, and, where `--llama-cpp` names a folder with convert_hf_to_gguf.py and
`--python` an interpreter with PyTorch, to llama.cpp's own converter. All of them take turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

N_VOCAB, N_EMBD, N_FF, N_KV = 151_936, 1536, 8960, 256
LIMIT = 300_000_000
# SentencePiece, because llama.cpp's converter refuses a byte-level BPE that it has never met.
TOKENIZER = Path(__file__).parents[1] / "convert" / "checkpoints" / "llama2" / "tokenizer.model"

# Run in a process of its own, whose peak is nobody else's.
CHILD = """
import re, sys
from time import perf_counter
from trimix_convert import convert_checkpoint
start = perf_counter()
convert_checkpoint(sys.argv[1], sys.argv[2], outtype=sys.argv[3])
seconds = perf_counter() - start
try:
    peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak, seconds)
"""


def tensor_shapes(n_layers: int, n_vocab: int) -> dict[str, tuple[int, ...]]:
    """A tied Qwen2's tensors."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (n_vocab, N_EMBD),
        "model.norm.weight": (N_EMBD,),
    }
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (N_EMBD,),
        "post_attention_layernorm.weight": (N_EMBD,),
        "self_attn.q_proj.weight": (N_EMBD, N_EMBD),
        "self_attn.q_proj.bias": (N_EMBD,),
        "self_attn.k_proj.weight": (N_KV, N_EMBD),
        "self_attn.k_proj.bias": (N_KV,),
        "self_attn.v_proj.weight": (N_KV, N_EMBD),
        "self_attn.v_proj.bias": (N_KV,),
        "self_attn.o_proj.weight": (N_EMBD, N_EMBD),
        "mlp.gate_proj.weight": (N_FF, N_EMBD),
        "mlp.up_proj.weight": (N_FF, N_EMBD),
        "mlp.down_proj.weight": (N_EMBD, N_FF),
    }
    for i in range(n_layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def write_checkpoint(folder: Path, n_layers: int, n_vocab: int) -> int:
    """Write it a few megabytes at a time; the bytes of its largest tensor."""
    shapes = tensor_shapes(n_layers, n_vocab)
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes.items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        offsets = [at, at + sizes[name]]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        at += sizes[name]
    noise = np.random.default_rng(0).standard_normal(1 << 22, np.float32) * np.float32(0.02)
    block = (noise.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, at, len(block)):
            file.write(block[: at - start])
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": n_vocab,
        "hidden_size": N_EMBD,
        "intermediate_size": N_FF,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(TOKENIZER, folder)
    return max(sizes.values())


def measure(folder: Path, runs: int, outtype: str, rival: list[str] | None) -> dict[str, float]:
    """Median seconds of each way, in turns, and the peak of ours in bytes."""
    target = folder / "converted.gguf"
    peaks: list[float] = []

    def ours() -> float:
        command = [sys.executable, "-c", CHILD, str(folder), str(target), outtype]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        peak, seconds = map(float, result.stdout.split())
        peaks.append(peak)
        return seconds

    def copy() -> float:
        start = perf_counter()
        # Not shutil.copyfile: where the file system can, that shares blocks instead of copying.
        with (folder / "model.safetensors").open("rb") as source, target.open("wb") as copied:
            shutil.copyfileobj(source, copied, 1 << 20)
        return perf_counter() - start

    def theirs() -> float:
        start = perf_counter()
        subprocess.run(
            [*(rival or []), str(folder), "--outfile", str(target), "--outtype", outtype],
            check=True,
            capture_output=True,
        )
        return perf_counter() - start

    ways: dict[str, Callable[[], float]] = {"ours": ours, "copy": copy}
    if rival:
        ways["llama.cpp"] = theirs
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            seconds[name].append(way())
            target.unlink()
    return {**{name: median(times) for name, times in seconds.items()}, "peak": max(peaks)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28, help="28 make 3.1 GB")
    parser.add_argument("--vocab", type=int, default=N_VOCAB)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--outtype", default="bf16")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--llama-cpp", type=Path, help="folder with convert_hf_to_gguf.py")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch")
    options = parser.parse_args()
    rival = None
    if options.llama_cpp:
        rival = [options.python, str(options.llama_cpp / "convert_hf_to_gguf.py")]
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        largest = write_checkpoint(Path(scratch), options.layers, options.vocab)
        found = measure(Path(scratch), options.runs, options.outtype, rival)
    limit = LIMIT + largest
    table = Table("", "measured", "at most")
    table.add_row("peak memory, MB", f"{found['peak'] / 1e6:.0f}", f"{limit / 1e6:.0f}")
    table.add_row("time, of a plain copy", f"{found['ours'] / found['copy']:.2f}", "")
    if rival:
        table.add_row("time, of llama.cpp's", f"{found['ours'] / found['llama.cpp']:.2f}", "0.50")
    Console().print(table)
    slow = rival is not None and found["ours"] > 0.5 * found["llama.cpp"]
    return 1 if found["peak"] > limit or slow else 0


if __name__ == "__main__":
    sys.exit(main())
