"""The shortest program: translate a sentence, streaming.

python examples/translate.py "Click OK to close the dialog."
"""

import sys

from trimix_edge import TriMix

sentence = " ".join(sys.argv[1:]) or "Click OK to close the dialog."
with TriMix.load("dzongkha") as trimix:
    for chunk in trimix.stream(sentence):
        print(chunk.text, end="", flush=True)
    print()
