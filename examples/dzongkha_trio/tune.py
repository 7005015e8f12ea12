"""Choose the trio's weights and its decoding on the dev split. Test is not read here.

    python tune.py --trio work/trio

Likelihood and decoding want different weights: the first table fits the weights to the references,
the second decodes dev items under a small grid and scores chrF++.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from likelihood import Bootstrap, bits_per_byte, fit_weights, fused_nll, read_items, teacher_force
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sacrebleu.metrics.chrf import CHRF

from trimix_edge import FusionWeights, Role, SamplingParams, TriMix

HERE = Path(__file__).parent
PAIRS = ((1.0, 0.0), (0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.9, 0.4), (0.5, 0.5), (0.0, 1.0))
PENALTIES = (1.0, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trio", default=str(HERE / "work" / "trio"))
    parser.add_argument("--dev", type=Path, default=HERE / "heldout" / "dev.tsv")
    parser.add_argument("--limit", type=int, default=150, help="items to decode in the second part")
    args = parser.parse_args()

    items = read_items(args.dev)
    with TriMix.load(args.trio, roles=list(Role)) as trimix:
        data = teacher_force(trimix, items, "dev references")
        bootstrap = Bootstrap(data.pages)
        best = fit_weights(data, list(Role), sum_to_one=True)
        bits, low, high = bootstrap.ratio(*bits_per_byte(data, fused_nll(data, best)))
        print(f"likelihood: weights = [{best[0]:.3f}, {best[1]:.3f}], "
              f"{bits:.4f} bits a byte [{low:.4f}, {high:.4f}] on dev")  # fmt: skip
        del data

        table = Table("weights", *(f"repeat penalty {p}" for p in PENALTIES))
        scores = {}
        runs = list(product(PAIRS, PENALTIES))
        chrf = CHRF(word_order=2, lowercase=True)
        sample = items[:: max(1, len(items) // args.limit)]
        for pair, penalty in track(runs, description="decoding dev"):
            outputs = [
                trimix.generate(
                    item.english,
                    chat=True,
                    max_tokens=100,
                    weights=FusionWeights(*pair),
                    sampling=SamplingParams(repeat_penalty=penalty),
                ).text
                for item in sample
            ]
            references = [[item.dzongkha for item in sample]]
            scores[pair, penalty] = chrf.corpus_score(outputs, references).score
        for pair in PAIRS:
            table.add_row(str(list(pair)), *(f"{scores[pair, p]:.1f}" for p in PENALTIES))
        Console().print(table)
        (pair, penalty), score = max(scores.items(), key=lambda entry: entry[1])
        print(f"decoding: weights = {list(pair)}, repeat_penalty = {penalty}, chrF++ {score:.1f}")


if __name__ == "__main__":
    main()
