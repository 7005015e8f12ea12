"""What the weights do: the same sentence under several balances, each with its own words.

python examples/weights.py "Opens the selected file."
"""

import sys

from trimix_edge import FusionWeights, Plausibility, Role, TriMix

sentence = " ".join(sys.argv[1:]) or "Opens the selected file."
settings = [
    (FusionWeights.single(Role.LARGE_INS), None),
    (FusionWeights.single(Role.SMALL_CPT), None),
    (FusionWeights(0.1, 0.9), None),
    (FusionWeights(0.5, 0.5), None),
    (FusionWeights(0.7, 0.7), None),
    (FusionWeights.PROXY_TUNING, None),
    (FusionWeights.PROXY_TUNING, Plausibility(Role.SMALL_CPT, 0.1)),
]
with TriMix.load("dzongkha", roles=list(Role)) as trimix:
    for weights, mask in settings:
        result = trimix.generate(sentence, max_tokens=60, weights=weights, plausibility=mask)
        print(f"{weights}{f' {mask}' if mask else '':<16} {result.text.strip()}")
