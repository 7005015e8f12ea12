"""Greedy tokens of the whole runtime, against transformers in float32 (``make_goldens.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimix_edge import FusionWeights, TriMix, values

CONTENT: dict[str, Any] = json.loads((Path(__file__).parent / "goldens.json").read_text("utf-8"))
SETTINGS, GOLDENS = CONTENT["settings"], CONTENT["goldens"]


def test_the_goldens_are_twenty_prompts_and_five_settings() -> None:
    assert len({golden["prompt"] for golden in GOLDENS}) == 20
    assert all(set(golden["tokens"]) == set(SETTINGS) for golden in GOLDENS)
    third = [1 - sum(setting["weights"]) for setting in SETTINGS.values()]
    assert len(third) == 5
    assert sum(weight < -1e-9 for weight in third) >= 2
    assert [1.0, 1.0] in [setting["weights"] for setting in SETTINGS.values()], "Proxy Tuning"
    assert any("plausibility" in setting for setting in SETTINGS.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_greedy_tokens_equal_those_of_a_float32_oracle(trimix: TriMix, name: str) -> None:
    setting = SETTINGS[name]
    mask = setting.get("plausibility")
    for golden in GOLDENS:
        result = trimix.generate(
            golden["prompt"],
            max_tokens=16,
            weights=FusionWeights(*setting["weights"]),
            plausibility=values.plausibility(mask) if mask else None,
        )
        assert result.prompt_token_ids == golden["prompt_ids"]
        assert result.token_ids == golden["tokens"][name]
        ended = trimix.trio.vocab.is_end(result.token_ids[-1])
        assert result.finish_reason == ("end" if ended else "length")
