"""Every setting of rotary positions is computed as config.json means it, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy_models as reference
import pytest
from trimix_convert import CheckpointError, convert_checkpoint

HEAD_DIM = 8
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture
def ids() -> Any:
    return np.random.default_rng(5).integers(0, 300, 96)


@pytest.fixture
def converted(checkpoint: Callable[..., Path], load: Any, tmp_path: Path) -> Any:
    """Converts a checkpoint with the given rotary parameters: its folder, and llama.cpp's view."""

    def convert(name: str, rope: dict[str, Any], **changes: Any) -> tuple[Path, Any]:
        folder = checkpoint(name, rope_parameters=rope, **changes)
        convert_checkpoint(folder, tmp_path / f"{name}.gguf", outtype="f32")
        return folder, load(tmp_path / f"{name}.gguf")

    return convert


def assert_close(found: Any, expected: Any) -> None:
    assert np.abs(found - expected).max() <= 2e-3 * expected.std()


@pytest.mark.parametrize("name", ["qwen2", "trio"])
def test_the_reference_computes_what_transformers_does(name: str, golden: Any) -> None:
    folder = Path(__file__).parent / "checkpoints" / name
    truth = golden(name)
    frequencies = reference.plain_frequencies(HEAD_DIM, 10_000.0)
    assert_close(reference.logits(folder, truth["input_ids"], frequencies), truth["logits"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention_factor": 1.0},
        {"attention_factor": 1},
        {"attention_factor": 0.7},
        {"attention_factor": 1.6, "factor": 16.0},
        {"mscale": 0.707, "mscale_all_dim": 1.3},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
        {"factor": 1.0, "attention_factor": 0.8},
        {"factor": 0.5},
        {"beta_fast": 32, "beta_slow": 1, "truncate": True},
        {"beta_fast": 0, "beta_slow": None},
    ],
)
@pytest.mark.parametrize("name", ["qwen2", "trio"])
def test_yarn_is_computed_as_configured(
    name: str, settings: dict[str, Any], converted: Any, ids: Any
) -> None:
    rope = {**YARN, **settings}
    folder, witness = converted(name, rope)
    used = {key: value for key, value in rope.items() if value not in (None, 0)}
    expected = reference.logits(folder, ids, *reference.yarn(HEAD_DIM, used))
    assert_close(witness.logits(ids), expected)


def test_attention_factor_changes_the_answers(
    checkpoint: Any, load: Any, ids: Any, tmp_path: Path
) -> None:
    found = []
    folder = checkpoint("qwen2")
    path = folder / "config.json"
    for i, settings in enumerate(({}, {"attention_factor": 1.0})):
        config = {**json.loads(path.read_text()), "rope_parameters": {**YARN, **settings}}
        path.write_text(json.dumps(config))
        convert_checkpoint(folder, tmp_path / f"{i}.gguf", outtype="f32")
        found.append(load(tmp_path / f"{i}.gguf").logits(ids))
    assert np.abs(found[0] - found[1]).max() > 0.1 * found[0].std()


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_fast": 8.0},
        {"beta_slow": 2},
        {"truncate": False},
        {"beta_fast": 4, "beta_slow": 0.5, "truncate": False, "attention_factor": 1.2},
        {"original_max_position_embeddings": 1, "rope_theta": 10.0},
    ],
)
def test_another_ramp_of_yarn_becomes_divisors_or_is_refused(
    settings: dict[str, Any], converted: Any, ids: Any
) -> None:
    rope = {**YARN, **settings}
    folder, witness = converted("trio", rope)
    expected = reference.logits(folder, ids, *reference.yarn(HEAD_DIM, rope))
    assert_close(witness.logits(ids), expected)
    with pytest.raises(CheckpointError, match="yarn"):
        converted("qwen2", rope)


def test_linear_scaling_is_computed(converted: Any, ids: Any) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0, "attention_factor": 1.0}
    folder, witness = converted("qwen2", rope)
    frequencies = reference.plain_frequencies(HEAD_DIM, 10_000.0) / 3
    assert_close(witness.logits(ids), reference.logits(folder, ids, frequencies))


def test_a_factor_of_null_is_the_ratio_of_the_contexts(converted: Any, ids: Any) -> None:
    folder, witness = converted("qwen2", {**YARN, "factor": None})
    used = {**YARN, "factor": 256 / 64}
    assert_close(
        witness.logits(ids), reference.logits(folder, ids, *reference.yarn(HEAD_DIM, used))
    )


def test_the_original_context_beside_the_scaling_counts_more(converted: Any, ids: Any) -> None:
    folder, witness = converted("qwen2", YARN, original_max_position_embeddings=200)
    used = {**YARN, "original_max_position_embeddings": 200}
    assert_close(
        witness.logits(ids), reference.logits(folder, ids, *reference.yarn(HEAD_DIM, used))
    )


def test_the_older_name_counts_where_both_are_there(converted: Any, ids: Any) -> None:
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    older = {key: value for key, value in YARN.items() if key != "rope_theta"}
    folder, witness = converted("qwen2", rope, rope_scaling=older)
    expected = reference.logits(folder, ids, *reference.yarn(HEAD_DIM, YARN))
    assert_close(witness.logits(ids), expected)


@pytest.mark.parametrize(
    ("rope", "changes", "word"),
    [
        ({**YARN, "attention_factor": 0.0}, {}, "attention_factor"),
        ({**YARN, "attention_factor": "1"}, {}, "attention_factor"),
        ({**YARN, "mscale": 0.5}, {}, "mscale"),
        ({**YARN, "mscale_all_dim": 0.5}, {}, "mscale_all_dim"),
        ({**YARN, "attention_factor": 2.0, "mscale": 1, "mscale_all_dim": 0.5}, {}, "contradicts"),
        ({**YARN, "attn_factor": 0.5}, {}, "attn_factor"),
        ({**YARN, "extrapolation_factor": 0.5}, {}, "extrapolation_factor"),
        ({**YARN, "partial_rotary_factor": 0.5}, {}, "partial_rotary_factor"),
        ({**YARN, "surprise": 1}, {}, "surprise"),
        ({**YARN, "beta_fast": -1}, {}, "beta_fast"),
        ({**YARN, "truncate": "no"}, {}, "truncate"),
        ({**YARN, "factor": 0}, {}, "factor"),
        ({"rope_type": "yarn"}, {}, "factor"),
        ({**YARN, "type": "linear"}, {}, "differ"),
        ({**YARN, "original_max_position_embeddings": 64.5}, {}, "64.5"),
        ({**YARN, "rope_theta": 1.0}, {}, "contradicts"),
        ({**YARN, "beta_slow": 1e-320}, {}, "contradicts"),
        ({**YARN, "rope_theta": 1e-320}, {}, "rope_theta"),
        ({"rope_type": "linear"}, {}, "factor"),
        ({"rope_type": "linear", "factor": 2.0, "attention_factor": 0.5}, {}, "attention_factor"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 16}, {}, "beta_fast"),
        ({"rope_type": "dynamic", "factor": 2.0, "alpha": 1000.0}, {}, "alpha"),
        ({"rope_type": "default", "factor": 4.0}, {}, "factor"),
        ({"rope_theta": 10_000.0, "mrope_section": [1, 2, 1]}, {}, "mrope_section"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, {}, "longrope"),
        ({"rope_type": "default"}, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "default"}, {"rope_local_base_freq": 500.0}, "500"),
        (
            {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 500.0}},
            {},
            "500",
        ),
        (YARN, {"rope_scaling": {**YARN, "factor": 2.0}}, "rope_parameters"),
        ({"rope_theta": 77.0}, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_theta"),
    ],
)
def test_what_llama_cpp_would_ignore_is_refused(
    rope: dict[str, Any],
    changes: dict[str, Any],
    word: str,
    checkpoint: Any,
    refuse: Any,
    tmp_path: Path,
) -> None:
    folder = checkpoint("qwen2", rope_parameters=rope, **changes)
    refuse(folder, tmp_path / "m.gguf", CheckpointError, "config.json", word)


@pytest.mark.parametrize("missing", ["factor", "low_freq_factor", "high_freq_factor"])
def test_llama3_scaling_lacks_nothing(
    missing: str, checkpoint: Any, refuse: Any, tmp_path: Path
) -> None:
    folder = checkpoint("llama3")
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    del rope[missing]
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_parameters": rope}))
    refuse(folder, tmp_path / "m.gguf", CheckpointError, missing)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_slow": 2}}, "beta_slow"),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default"},
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0},
                }
            },
            "sliding",
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default"},
                    "sliding_attention": {"rope_type": "default", "beta_fast": 3},
                }
            },
            "beta_fast",
        ),
    ],
)
def test_gemma_scales_its_global_layers_linearly_or_not_at_all(
    changes: dict[str, Any], word: str, checkpoint: Any, refuse: Any, tmp_path: Path
) -> None:
    refuse(checkpoint("gemma3", **changes), tmp_path / "m.gguf", CheckpointError, word)
