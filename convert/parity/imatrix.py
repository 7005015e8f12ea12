"""Are importance matrices and quantised files those of llama.cpp's own programs? (development only)

Builds ``llama-imatrix`` and ``llama-quantize`` from the pinned source once, and runs them on the
libraries that llama-cpp-python brings, so that both sides compute with the same kernels. Models are
random, one dense and one with experts, in F32, Q8_0 and Q4_K_M. Compared are every sum (to 1e-5)
and count, whether the two files are the same byte for byte, and the files that both quantise with
the same matrix.

    python convert/parity/imatrix.py LLAMA_CPP_FOLDER [--build FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader, GGUFWriter

from trimix_edge.llama.calibration import CalibrationText
from trimix_edge.llama.imatrix import collect_imatrix
from trimix_edge.llama.imatrix_file import read_imatrix
from trimix_edge.llama.quantize import quantize

TYPES = ("Q8_0", "Q4_0", "Q4_K_M", "IQ4_XS", "IQ3_M", "Q2_K", "Q2_K_S", "IQ2_XXS", "IQ1_M")
CHUNK = 256
N_VOCAB, WIDTH, N_FF, N_EXPERTS = 320, 256, 512, 4
PROGRAMS = ("llama-imatrix", "llama-quantize")
LETTERS = "abcdefghijklmnopqrstuvwxyz ."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("llama_cpp", type=Path, help="llama.cpp's source")
    parser.add_argument("--build", type=Path, help="where its programs are built, and kept")
    arguments = parser.parse_args()
    programs = build(arguments.llama_cpp, arguments.build or arguments.llama_cpp / "build-parity")
    n_wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = folder / "text.txt"
        letters = np.random.default_rng(0).choice(list(LETTERS), 5 * CHUNK)
        text.write_text("".join(letters), encoding="utf-8")
        for name, n_experts in (("dense", 0), ("experts", N_EXPERTS)):
            whole = folder / f"{name}.gguf"
            write_model(whole, n_experts)
            for kind in ("F32", "Q8_0", "Q4_K_M"):
                model = whole
                if kind != "F32":
                    model = folder / f"{name}.{kind}.gguf"
                    quantize(whole, model, kind)
                n_wrong += compare_matrices(programs, model, text, folder)
            n_wrong += compare_quantised(programs, whole, text, folder)
    print("equal" if not n_wrong else f"{n_wrong} differences")
    return 1 if n_wrong else 0


def build(source: Path, folder: Path) -> dict[str, Path]:
    """llama.cpp's programs; cmake builds what is not there yet."""
    programs = {name: folder / "bin" / name for name in PROGRAMS}
    if not all(path.is_file() for path in programs.values()):
        print(f"building {' and '.join(PROGRAMS)}, once", flush=True)
        off = [f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "SERVER")]
        settings = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_OPENSSL=OFF"]
        call(["cmake", "-S", str(source), "-B", str(folder), *settings, *off])
        call(["cmake", "--build", str(folder), "--parallel", "--target", *PROGRAMS])
    return programs


def call(command: list[str]) -> None:
    """Run a program on llama-cpp-python's libraries; its output is shown if it fails."""
    libraries = str(Path(llama_cpp.__file__).parent / "lib")
    done = subprocess.run(
        command,
        env={**os.environ, "LD_LIBRARY_PATH": libraries, "DYLD_LIBRARY_PATH": libraries},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def compare_matrices(programs: dict[str, Path], model: Path, text: Path, folder: Path) -> int:
    """Our matrix beside llama-imatrix's; the number of differences."""
    ours, theirs = folder / "ours.imatrix.gguf", folder / "theirs.imatrix.gguf"
    texts = [CalibrationText(str(text), text.read_text(encoding="utf-8"))]
    collect_imatrix(model, ours, texts, chunk_size=CHUNK, overwrite=True)
    # A batch of one chunk: more at once are cut into pieces, of which the smallest are not counted.
    size = ["-c", str(CHUNK), "-b", str(CHUNK), "--no-ppl"]
    call(
        [
            str(programs["llama-imatrix"]),
            "-m",
            str(model),
            "-f",
            str(text),
            "-o",
            str(theirs),
            *size,
        ]
    )
    a, b = read_imatrix(ours).entries, read_imatrix(theirs).entries
    n_wrong = int(a.keys() != b.keys())
    worst = 0.0
    for name in a.keys() & b.keys():
        n_wrong += int(not np.array_equal(a[name].counts, b[name].counts))
        of_b = b[name].sums.astype(np.float64)
        worst = max(worst, float((np.abs(a[name].sums - of_b) / np.maximum(of_b, 1e-20)).max()))
    n_wrong += int(worst > 1e-5)
    same = "the same file" if ours.read_bytes() == theirs.read_bytes() else "another file"
    print(f"{model.name}: {len(b)} tensors, {worst:.1e} apart at most, {same}", flush=True)
    return n_wrong


def compare_quantised(programs: dict[str, Path], model: Path, text: Path, folder: Path) -> int:
    """Files of each type that both make with the same matrix; how many differ."""
    matrix, ours, theirs = (folder / f"{name}.gguf" for name in ("matrix", "ours", "theirs"))
    texts = [CalibrationText(str(text), text.read_text(encoding="utf-8"))]
    collect_imatrix(model, matrix, texts, chunk_size=CHUNK, overwrite=True)
    differing = []
    for kind in TYPES:
        quantize(model, ours, kind, imatrix=matrix, overwrite=True)
        options = ["--imatrix", str(matrix), str(model), str(theirs), kind]
        call([str(programs["llama-quantize"]), *options])
        if ours.read_bytes() != theirs.read_bytes():
            differing.append(kind)
    told = ", ".join(differing) or "none"
    print(f"{model.name}: {len(TYPES)} types with one matrix, differing: {told}", flush=True)
    return len(differing)


def write_model(path: Path, n_experts: int) -> None:
    """A random Llama of two layers; each letter is a token."""
    random = np.random.default_rng(1)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2 * CHUNK)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    if n_experts:
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(2)
    spaced = ["Ġ" if letter == " " else letter for letter in LETTERS]
    tokens = spaced + [f"<unused{i}>" for i in range(N_VOCAB - len(spaced))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(spaced) + [5] * (N_VOCAB - len(spaced)))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)

    def add(name: str, *shape: int) -> None:
        scale = 1.5 / np.sqrt(shape[-1])
        writer.add_tensor(f"{name}.weight", (random.normal(0, scale, shape)).astype(np.float32))

    add("token_embd", N_VOCAB, WIDTH)
    add("output", N_VOCAB, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for i in range(2):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(WIDTH, np.float32))
        for kind, rows in (("q", WIDTH), ("k", WIDTH // 2), ("v", WIDTH // 2), ("output", WIDTH)):
            add(f"blk.{i}.attn_{kind}", rows, WIDTH)
        several = (n_experts,) if n_experts else ()
        end = "_exps" if n_experts else ""
        add(f"blk.{i}.ffn_up{end}", *several, N_FF, WIDTH)
        add(f"blk.{i}.ffn_gate{end}", *several, N_FF, WIDTH)
        add(f"blk.{i}.ffn_down{end}", *several, WIDTH, N_FF)
        if n_experts:
            add(f"blk.{i}.ffn_gate_inp", n_experts, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert GGUFReader(path).tensors


if __name__ == "__main__":
    sys.exit(main())
