"""Damaged GGUF files: each loads or is refused in one line; none takes the process down."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from quantize.parts import split
from tiny_models import GREEDY_TRIO, edit_gguf, retyped

from trimix_edge import Role

TRY_EACH = """
import json, sys
from pathlib import Path
from trimix_edge import ContextParams, FusionWeights, Role, TriMix
from trimix_edge.errors import TriMixError

trio, *names = sys.argv[1:]
for name in names:
    print(json.dumps([name, "started"]), flush=True)
    try:
        with TriMix.load(
            Path(trio), models={Role.LARGE_INS: Path(name)},
            weights=FusionWeights(1, 0),
            context=ContextParams(n_ctx=64, n_threads=1),
        ) as trimix:
            trimix.generate(" save the file", chat=False, max_tokens=3)
        told = ""
    except TriMixError as error:
        told = f"{type(error).__name__}: {error}"
    print(json.dumps([name, told]), flush=True)
"""


def outcomes(paths: list[Path]) -> dict[str, str]:
    """What became of each file: nothing, the error it raised, or how it ended the process."""
    results: dict[str, str] = {}
    left = [str(path) for path in paths]
    while left:
        done = subprocess.run(
            [sys.executable, "-c", TRY_EACH, str(GREEDY_TRIO), *left],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"},
        )
        for line in done.stdout.splitlines():
            if line.startswith('["'):
                name, told = json.loads(line)
                results[name] = told
        for name in left:
            if results.get(name, "started") == "started":
                results[name] = f"CRASH {done.returncode}: {done.stderr[-300:]}"
                break
        left = [name for name in left if name not in results]
    return results


def damaged(source: Path, folder: Path) -> list[Path]:
    """Sixty seeded damages, most of them in the metadata: that is where lies can do harm."""
    whole = source.read_bytes()
    header = whole.index(b"output_norm.weight") + 200
    pick = random.Random(4)
    paths = []
    for i in range(60):
        data = bytearray(whole)
        if i < 20:
            del data[pick.randrange(header if i < 14 else len(data)) :]
        elif i < 25:
            data[pick.randrange(header, len(data))] ^= 1 << pick.randrange(8)
        elif i < 40:
            data[pick.randrange(8, header)] ^= 1 << pick.randrange(8)
        else:  # a count, a length or a number of the architecture
            at = pick.randrange(8, 1500)
            data[at : at + 8] = pick.choice([b"\xff" * 8, b"\0" * 8, b"\0\0\0\x80" * 2])
        path = folder / f"damaged{i:02}.gguf"
        path.write_bytes(data)
        paths.append(path)
    return paths


LIES: dict[str, dict[str, Any]] = {
    "no_heads": {"llama.attention.head_count": 0},
    "no_kv_heads": {"llama.attention.head_count_kv": 0},
    "odd_kv_heads": {"llama.attention.head_count_kv": 2},
    "no_layers": {"llama.block_count": 0},
    "many_layers": {"llama.block_count": 2**31},
    "wrapping_heads": {"llama.attention.head_count_kv": 2**31 + 1},
    "no_width": {"llama.embedding_length": 0},
    "no_context": {"llama.context_length": 0},
    "no_rope": {"llama.rope.dimension_count": 0},
    "odd_rope": {"llama.rope.dimension_count": 7},
    "no_alignment": {"general.alignment": 0},
    "bos_far_away": {"tokenizer.ggml.bos_token_id": 2**31},
    "eos_far_away": {"tokenizer.ggml.eos_token_id": 2**31},
    "architecture": {"tokenizer.ggml.model": "nonsense"},
    "pre_tokenizer": {"tokenizer.ggml.pre": "nonsense"},
    "epsilon": {"llama.attention.layer_norm_rms_epsilon": -1.0},
    "template": {"tokenizer.chat_template": "{{ ''.__class__ }}"},
    "not_a_number": {"llama.attention.key_length": "wide"},
    "many_experts": {"llama.expert_count": 9999},
    "used_experts": {"llama.expert_used_count": 3},
    "more_layers": {"llama.nextn_predict_layers": 99},
    "rope_scaling": {"llama.rope.scaling.type": "sideways"},
}


@pytest.mark.parametrize("half", [0, 1])
def test_no_damaged_file_takes_the_process_down(
    tiny: dict[Role, Path], tmp_path: Path, half: int
) -> None:
    results = outcomes(damaged(tiny[Role.SMALL_BASE], tmp_path)[half::2])
    crashes = {name: told for name, told in results.items() if told.startswith("CRASH")}
    assert not crashes
    refused = [told for told in results.values() if told]
    assert 10 <= len(refused) < 30, "some are refused, and some damage does not matter"
    assert all("\n" not in told for told in refused)


def test_where_llama_cpp_gives_up_it_does_so_in_one_line(
    tiny: dict[Role, Path], tmp_path: Path
) -> None:
    """A token that comes twice fails an assertion of llama.cpp, which then ends the process."""
    tokens = GGUFReader(tiny[Role.SMALL_BASE]).fields["tokenizer.ggml.tokens"].contents()
    tokens[5] = tokens[6]
    path = edit_gguf(
        tiny[Role.SMALL_BASE], tmp_path / "twice.gguf", {"tokenizer.ggml.tokens": tokens}
    )
    start = "from trimix_edge.cli import main; main()"
    command = [
        sys.executable,
        "-X",
        "utf8",
        "-c",
        start,
        "generate",
        "hi",
        "--large-ins",
        str(path),
    ]
    weights = ["--weights", "1,0"]
    result = subprocess.run([*command, *weights], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("trimix-edge: llama.cpp gave up at src/llama-vocab.cpp:")
    assert result.stderr.count("\n") == 1
    # A program that uses the library ends as ggml ends it, and not by our exit.
    (told,) = outcomes([path]).values()
    assert told.startswith(f"CRASH {-signal.SIGABRT}: ")
    assert "gave up" not in told


def test_no_file_that_lies_takes_the_process_down(tiny: dict[Role, Path], tmp_path: Path) -> None:
    paths = [
        edit_gguf(tiny[Role.SMALL_BASE], tmp_path / f"{name}.gguf", lie)
        for name, lie in LIES.items()
    ]
    types = {
        "integer_matrix": (b"blk.0.attn_q.weight", 26),
        "packed_norm": (b"output_norm.weight", 8),
    }
    for name, (tensor, kind) in types.items():
        paths.append(retyped(tiny[Role.SMALL_BASE], tmp_path / f"{name}.gguf", tensor, kind))
    results = {Path(name).stem: told for name, told in outcomes(paths).items()}
    assert not {name: told for name, told in results.items() if told.startswith("CRASH")}
    assert "llama.block_count is 0" in results["no_layers"]
    assert "layer_norm_rms_epsilon is -1" in results["epsilon"]
    assert "expert_count is 9999" in results["many_experts"]
    assert "expert_used_count is 3, of 0 in all" in results["used_experts"]
    assert "nextn_predict_layers is 99" in results["more_layers"]
    assert "rope.scaling.type is 'sideways'" in results["rope_scaling"]
    assert "attn_q.weight is of type 26" in results["integer_matrix"]
    assert "output_norm.weight is of type 8" in results["packed_norm"]


def test_lies_in_a_later_part_are_found_too(tiny: dict[Role, Path], tmp_path: Path) -> None:
    source = tiny[Role.SMALL_BASE]
    changes = {
        "whole": None,
        "integer_matrix": (b"blk.1.ffn_gate.weight", 26),
        "packed_norm": (b"output_norm.weight", 8),
    }
    firsts = {}
    for name, change in changes.items():
        folder = tmp_path / name
        folder.mkdir()
        first, second = split(source, folder)
        firsts[name] = first
        if change is not None:
            assert change[0] not in first.read_bytes()
            second = retyped(second, second, *change)
    cut = tmp_path / "cut"
    cut.mkdir()
    firsts["cut"], second = split(source, cut)
    os.truncate(second, 100)
    told = outcomes(list(firsts.values()))
    results = {name: told[str(path)] for name, path in firsts.items()}
    assert not {name: told for name, told in results.items() if told.startswith("CRASH")}
    assert results["whole"] == ""
    assert "blk.1.ffn_gate.weight is of type 26" in results["integer_matrix"]
    assert "output_norm.weight is of type 8" in results["packed_norm"]
    assert "m-00002-of-00002.gguf is damaged" in results["cut"]
