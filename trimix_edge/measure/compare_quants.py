"""What quantisation costs on given texts: bits a byte, KL divergence, top tokens, size and speed.

The texts are read as llama.cpp's ``tools/perplexity`` reads them for ``--kl-divergence``: in chunks
of one size, each from an empty memory, of which the second half is scored. For each token there,

- bits a byte: the negative log-probability of the token that follows, over the UTF-8 bytes of all
  those tokens;
- KL divergence: ``sum(p * log(p / q))`` over the vocabulary, in nats, with ``p`` the distribution
  of the model as it was given and ``q`` that of the quantised one; the mean over tokens;
- same top: how often both have the same likeliest token.

Intervals are 95 % percentile intervals of the bootstrap over chunks; differences to the model as it
was given are paired: the same chunks are drawn for both.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimix_edge.errors import QuantizeError, UsageError
from trimix_edge.files import cache_folder
from trimix_edge.gguf import read_gguf
from trimix_edge.llama.quantize import COPY, parse_quantization, quantize, quantized_bytes
from trimix_edge.measure.quant_loss import Progress, QuantReader, Text, Variant
from trimix_edge.planning.summary import summarise

DEFAULT_CHUNKS = 40


@dataclass(frozen=True)
class Comparison:
    """The model as it was given, and its quantisations in the order that was asked for.

    Attributes:
        n_chunks: of each text, chunks that were read.
        n_tokens: of each text, tokens that were scored.
    """

    model: Path
    chunk_size: int
    n_chunks: tuple[int, ...]
    n_tokens: tuple[int, ...]
    base: Variant
    variants: tuple[Variant, ...]


def compare_quants(
    model: Path,
    types: Sequence[str],
    texts: Sequence[Text],
    *,
    imatrices: Sequence[Path | None] = (None,),
    chunk_size: int | None = None,
    max_chunks: int = DEFAULT_CHUNKS,
    threads: int = 0,
    allow_requantize: bool = False,
    scratch: Path | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Comparison:
    """Quantise a model to each type with each matrix, and measure all of them.

    One model is in memory at a time. The distributions of the model as it was given wait on the
    disk, in float16: 2 bytes for each token of the vocabulary and of the scored text.

    Args:
        model: a GGUF file, unquantised.
        types: names that llama.cpp's quantiser knows.
        texts: at least one; the first is the one that a recommendation is for.
        imatrices: each type is made with each of these; None is without.
        chunk_size: tokens of a chunk, 512 if absent, or what the model was trained on.
        max_chunks: read no more of each text, evenly from all of it.
        threads: 0 for one a physical core.
        allow_requantize: the model may be quantised already.
        scratch: a folder for what is gone at the end; trimix-edge's cache if absent.
        seed: of the bootstrap.

    Raises:
        UsageError: no types, no texts, no such type, or a chunk size that makes no sense.
        PromptError: a text is too short.
        ImatrixError, QuantizeError, ModelLoadError, ContextError, DiskSpaceError: see there.
    """
    kinds = [parse_quantization(name) for name in types]
    if not kinds or COPY in kinds or not texts:
        raise UsageError("compare-quants takes types of llama.cpp's quantiser, and texts")
    if max_chunks < 2:
        raise UsageError(f"chunks is {max_chunks}, it must be at least 2: intervals need several")
    given = summarise(read_gguf(model)).quantization
    scratch = scratch or cache_folder()  # the system's folder may be in memory
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compare-quants-", dir=scratch) as folder:
        reader = QuantReader(
            texts, chunk_size, max_chunks, threads, Path(folder), seed, on_progress
        )
        base = reader.read_base(model, given)
        variants = []
        for kind, imatrix in ((kind, imatrix) for kind in kinds for imatrix in imatrices):
            target = Path(folder) / "quantized.gguf"
            try:
                report = quantize(
                    model,
                    target,
                    kind,
                    imatrix=imatrix,
                    allow_requantize=allow_requantize,
                    overwrite=True,
                    threads=threads,
                    on_progress=_labelled(on_progress, f"making {kind}"),
                )
            except QuantizeError as error:
                if "needs an importance matrix" not in str(error):
                    raise
                n_bytes = quantized_bytes(model, kind)
                why = ("needs an importance matrix",)
                variants.append(Variant(kind, imatrix, n_bytes, 0, (), math.nan, why))
                continue
            variants.append(reader.read(target, kind, imatrix, report.notes))
    return Comparison(model, reader.size, reader.n_chunks, reader.n_tokens, base, tuple(variants))


def recommend(comparison: Comparison, n_bytes: int | None = None) -> Variant | None:
    """The variant closest to the model as it was given: by KL divergence, on the first text.

    Not the one with the fewest bits a byte: where a model is too sure of itself, the noise of a
    coarse type can lower those, although it changes half of the likeliest tokens.

    Args:
        n_bytes: the most memory that it may take to run; None for any.

    Returns:
        None where nothing fits.
    """
    fitting = [
        variant
        for variant in (comparison.base, *comparison.variants)
        if variant.losses and (n_bytes is None or variant.n_memory <= n_bytes)
    ]
    return min(fitting, key=lambda variant: variant.losses[0].kl[0], default=None)


def _labelled(on_progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(label, done, total)
