"""The whole method in one loop, from the parts that TriMix is made of: no facade, no sampler.

python examples/loop.py
"""

import sys

from trimix_edge import FusionWeights, Role
from trimix_edge.decoding.text import TextStream
from trimix_edge.decoding.trio import Trio
from trimix_edge.fusion.linear import LinearFusion
from trimix_edge.trios.manifest import TrioManifest

manifest = TrioManifest.find("dzongkha")
with Trio(manifest.models, list(Role), manifest.context) as trio:
    rule = LinearFusion(FusionWeights(0.5, 0.8), trio.n_vocab)
    text = TextStream()
    sequence = trio.sequence(rule.needs)
    logits = sequence.decode(trio.vocab.tokenize("English: Click OK.\nDzongkha:"))
    for _ in range(40):
        token = int(rule.fuse(logits).best[0])  # L = w_large·L + w_cpt·L + w_base·L, its argmax
        if trio.vocab.is_end(token):
            break
        sys.stdout.write(text.push(trio.vocab.token_bytes(token)))
        logits = sequence.decode([token])
    print(text.finish())
