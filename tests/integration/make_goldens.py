"""Writes goldens.json: what transformers, in float32 on a CPU, says of the tiny trio's fusion.

Needs torch and transformers, which the tests do not:

    python tests/integration/make_goldens.py

For each of 20 prompts and 5 settings: the tokens of greedy decoding on the fused logits, at most
16 or up to an end token. The logits are transformers', the fusion is NumPy's in float64.

Random models have no opinion on many tokens, so a step may hang on the last bit of a float. The
prompts are therefore the first 20 of a seeded pool for which, in all settings and at every step,
the best token leads the second by at least ``MARGIN`` (the differences between float32
implementations are some 1e-5 here), also when the threshold of the mask moves by that much.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tiny_models import END, TURN_END, WORDS, trio_tensors, write_checkpoint  # noqa: E402

N_PROMPTS, MAX_TOKENS, MARGIN = 20, 16, 2e-3
ROLES = ("large_ins", "small_cpt", "small_base")
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {"weights": [0.1, 0.9]},
    "proxy_tuning": {"weights": [1.0, 1.0]},
    "negative_third": {"weights": [0.5, 0.8]},
    "positive_third": {"weights": [0.3, 0.4]},
    "masked": {"weights": [0.9, 0.5], "plausibility": "small_cpt:0.1"},
}


def prompt_pool() -> list[str]:
    """Nonsense of 1 to 40 words, English and Dzongkha, with digits and line ends."""
    random = np.random.RandomState(5)
    words = [*WORDS, " 42", "\n", ".", " Кириллица", " 😀"]
    sizes = [int(random.randint(1, 41)) for _ in range(400)]
    return ["".join(words[i] for i in random.randint(0, len(words), n)).strip() for n in sizes]


class Oracle:
    """The three models, and greedy decoding on their fused logits."""

    def __init__(self, folder: Path) -> None:
        self.models = {}
        for role, (shape, tensors) in trio_tensors().items():
            checkpoint = write_checkpoint(folder / role, shape, tensors)
            self.models[role] = LlamaForCausalLM.from_pretrained(
                checkpoint, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
        self.ends = set(self.tokenizer.convert_tokens_to_ids([END, TURN_END]))

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> dict[str, Any]:
        """The float64 logits of each model after these tokens."""
        batch = torch.tensor([ids])
        return {
            role: model(batch).logits[0, -1].double().numpy() for role, model in self.models.items()
        }

    def greedy(self, ids: list[int], setting: dict[str, Any]) -> tuple[list[int], bool] | None:
        """The generated tokens and whether the mask ever mattered; None on the edge of a knife."""
        large, cpt = setting["weights"]
        weights = dict(zip(ROLES, (large, cpt, 1 - large - cpt), strict=True))
        generated: list[int] = []
        mattered = False
        while len(generated) < MAX_TOKENS and not self.ends & set(generated[-1:]):
            rows = self.logits(ids + generated)
            fused = sum(weights[role] * rows[role] for role in ROLES)
            best = int(fused.argmax())
            if "plausibility" in setting:
                role, alpha = setting["plausibility"].split(":")
                threshold = rows[role].max() + np.log(float(alpha))
                kept = [rows[role] >= threshold + shift for shift in (-MARGIN, 0, MARGIN)]
                choices = {int(np.where(mask, fused, -np.inf).argmax()) for mask in kept}
                if len(choices) > 1:
                    return None
                mattered |= best not in choices
                fused, best = np.where(kept[1], fused, -np.inf), choices.pop()
            if fused[best] - np.delete(fused, best).max() < MARGIN:
                return None
            generated.append(best)
        return generated, mattered


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        oracle = Oracle(Path(folder))
    goldens: list[dict[str, Any]] = []
    masks_mattered = 0
    tried = 0
    for text in prompt_pool():
        if len(goldens) == N_PROMPTS:
            break
        tried += 1
        ids = oracle.tokenizer(text, add_special_tokens=False)["input_ids"]
        answers = {name: oracle.greedy(ids, setting) for name, setting in SETTINGS.items()}
        if None in answers.values():
            continue
        masks_mattered += answers["masked"][1]
        tokens = {name: answer[0] for name, answer in answers.items()}
        goldens.append({"prompt": text, "prompt_ids": ids, "tokens": tokens})
    assert len(goldens) == N_PROMPTS, f"only {len(goldens)} of {tried} prompts are clear"
    assert masks_mattered >= N_PROMPTS // 2, "the mask hardly ever changes the choice"
    content = {"margin": MARGIN, "settings": SETTINGS, "goldens": goldens}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (HERE / "goldens.json").write_text(text.replace('{"prompt"', '\n{"prompt"') + "\n", "utf-8")
    print(f"{len(goldens)} of {tried} prompts; the mask mattered in {masks_mattered}")


if __name__ == "__main__":
    main()
