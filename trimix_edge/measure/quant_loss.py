"""One quantisation of a model on given texts, beside the model as it was given.

The definitions are those of :mod:`trimix_edge.measure.compare_quants`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt

from trimix_edge.errors import PromptError, UsageError
from trimix_edge.files import require_space
from trimix_edge.gguf import DEFAULT_N_CTX, ModelShape, read_gguf
from trimix_edge.llama.chunks import SMALLEST, ChunkRunner, chunks_of
from trimix_edge.llama.model import LlamaModel
from trimix_edge.planning.memory import MemoryNeed

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and all of it."""

DEFAULT_CHUNK = 512
DRAWS = 10_000
_TIMED, _WARM = 32, 4
"""Tokens that are timed one by one, after some that are not."""


@dataclass(frozen=True)
class Text:
    """A text to measure on: its name, and what it says."""

    name: str
    text: str


@dataclass(frozen=True)
class Loss:
    """What a variant makes of one text.

    Attributes:
        bits_per_byte: of the scored tokens.
        change: bits a byte more than the model as it was given, with its paired interval.
        kl: mean KL divergence from the model as it was given, nats a token, with its interval.
        same_top: fraction of tokens with the same likeliest next token.
    """

    text: str
    bits_per_byte: float
    change: tuple[float, float, float]
    kl: tuple[float, float, float]
    same_top: float


@dataclass(frozen=True)
class Variant:
    """One quantisation of the model, or the model as it was given.

    Attributes:
        type: llama.cpp's name.
        imatrix: the importance matrix that it was made with.
        n_bytes: of the file; of one that could not be made, what its tensors would have.
        n_memory: bytes that it takes to run, with a context of up to 4,096 tokens; 0 if unknown.
        losses: in the order of the texts; empty where it could not be made.
        tokens_per_second: generating, one after the other, on this machine.
        notes: what a reader ought to know; why it could not be made.
    """

    type: str
    imatrix: Path | None
    n_bytes: int
    n_memory: int
    losses: tuple[Loss, ...]
    tokens_per_second: float
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.type if self.imatrix is None else f"{self.type} + {self.imatrix.name}"


class QuantReader:
    """Reads the same chunks with one model after the other."""

    def __init__(
        self,
        texts: Sequence[Text],
        chunk_size: int | None,
        max_chunks: int,
        threads: int,
        folder: Path,
        seed: int,
        on_progress: Progress | None,
    ) -> None:
        self._texts = texts
        self._max_chunks = max_chunks
        self._threads = threads
        self._folder = folder
        self._seed = seed
        self._on_progress = on_progress
        self._asked = chunk_size
        self._chunks: list[list[list[int]]] = []
        self._bytes: list[Floats] = []
        self._base_bits: list[Floats] = []
        self.size = 0

    @property
    def n_chunks(self) -> tuple[int, ...]:
        return tuple(map(len, self._chunks))

    @property
    def n_tokens(self) -> tuple[int, ...]:
        return tuple(n * (self.size - 1 - self._first) for n in self.n_chunks)

    @property
    def _first(self) -> int:
        return self.size // 2

    def read_base(self, path: Path, kind: str) -> Variant:
        """Read with the model as it was given, and keep its distributions."""
        with LlamaModel(path) as model:
            self._cut(model)
            n_rows = sum(self.n_tokens)
            require_space(self._folder, n_rows * model.n_vocab * 2, "the base distributions")
            self._kept = np.lib.format.open_memmap(
                self._folder / "base.npy", "w+", np.float16, (n_rows, model.n_vocab)
            )
            self._top = np.empty(n_rows, np.int64)
            return self._measure(model, path, kind, None, (), keep=True)

    def read(self, path: Path, kind: str, imatrix: Path | None, notes: tuple[str, ...]) -> Variant:
        """Read with a quantised model."""
        with LlamaModel(path) as model:
            return self._measure(model, path, kind, imatrix, notes, keep=False)

    def _cut(self, model: LlamaModel) -> None:
        whole = model.n_ctx_train // SMALLEST * SMALLEST
        self.size = self._asked or max(SMALLEST, min(DEFAULT_CHUNK, whole))
        if self.size % SMALLEST or not 2 * SMALLEST <= self.size <= model.n_ctx_train:
            raise UsageError(
                f"chunks of {self.size} tokens: a multiple of {SMALLEST} from {2 * SMALLEST} to "
                f"the {model.n_ctx_train} that the model was trained on"
            )
        vocab = model.vocab
        for text in self._texts:
            tokens = vocab.tokenize(text.text, parse_special=False)
            chunks = chunks_of(vocab, tokens, self.size)
            if len(chunks) < 2:
                raise PromptError(
                    f"{text.name} is too short: it has {len(tokens)} tokens, two chunks take "
                    f"{2 * self.size}: give more text, or smaller chunks with --ctx"
                )
            n = min(self._max_chunks, len(chunks))
            chosen = [chunks[k * len(chunks) // n] for k in range(n)]
            self._chunks.append(chosen)
            scored = [vocab.detokenize(chunk[self._first + 1 :]) for chunk in chosen]
            self._bytes.append(np.array([max(1, len(data)) for data in scored], np.float64))

    def _measure(
        self,
        model: LlamaModel,
        path: Path,
        kind: str,
        imatrix: Path | None,
        notes: tuple[str, ...],
        *,
        keep: bool,
    ) -> Variant:
        losses, at = [], 0
        done, total = 0, sum(self.n_chunks)
        with ChunkRunner(model, self.size, threads=self._threads) as runner:
            for i, chunks in enumerate(self._chunks):
                sums = []
                for chunk in chunks:
                    tally = _Tally(chunk, self._kept, self._top, at - self._first, keep)
                    runner.run(chunk, self._first, tally.add)
                    sums.append((tally.bits, tally.kl, tally.same))
                    at += self.size - 1 - self._first
                    done += 1
                    if self._on_progress is not None:
                        self._on_progress(f"reading with {kind}", done, total)
                losses.append(self._loss(i, np.array(sums).T, keep))
            speed = _tokens_per_second(runner, self._chunks[0][0])
        file = read_gguf(path)
        shape = ModelShape.of(file)
        n_ctx = min(DEFAULT_N_CTX, model.n_ctx_train)
        need = 0 if shape is None else MemoryNeed.of(shape, file.n_tensor_bytes, n_ctx).total
        return Variant(kind, imatrix, file.n_bytes, need, tuple(losses), speed, notes)

    def _loss(self, i: int, sums: Floats, keep: bool) -> Loss:
        bits, kl, same = sums
        if keep:
            self._base_bits.append(bits)
        n_tokens = np.full(len(bits), float(self.size - 1 - self._first))
        return Loss(
            text=self._texts[i].name,
            bits_per_byte=float(bits.sum() / self._bytes[i].sum()),
            change=paired(bits - self._base_bits[i], self._bytes[i], self._seed),
            kl=paired(kl, n_tokens, self._seed),
            same_top=float(same.sum() / n_tokens.sum()),
        )


class _Tally:
    """Sums over the scored tokens of one chunk: bits, KL divergence, same top tokens."""

    def __init__(
        self,
        chunk: Sequence[int],
        kept: npt.NDArray[np.float16],
        top: npt.NDArray[np.int64],
        offset: int,
        keep: bool,
    ) -> None:
        self._targets = np.array(chunk[1:])
        self._kept, self._top = kept, top
        self._offset = offset
        self._keep = keep
        self.bits = self.kl = self.same = 0.0

    def add(self, position: int, logits: npt.NDArray[np.float32]) -> None:
        """See :data:`~trimix_edge.llama.chunks.OnRows`; the last row has no target."""
        targets = self._targets[position : position + len(logits)]
        for row, target, at in zip(
            logits, targets, range(self._offset + position, 1 << 62), strict=False
        ):
            logprobs = log_softmax(row)
            self.bits -= float(logprobs[target]) / math.log(2)
            if self._keep:
                self._kept[at], self._top[at] = logprobs, row.argmax()
            self.kl += 0.0 if self._keep else divergence(self._kept[at], logprobs)
            self.same += float(row.argmax() == self._top[at])


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    """Log-probabilities of a row of logits, float64 ``[n_vocab]``."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= math.log(np.exp(values).sum())
    return values


def divergence(p: npt.NDArray[np.float16], q: Floats) -> float:
    """KL divergence in nats of two rows of log-probabilities; ``p``'s were rounded, and are made a
    distribution again."""
    logp = log_softmax(p.astype(np.float32))
    weights = np.exp(logp)
    found = weights > 0
    return float((weights[found] * (logp[found] - q[found])).sum())


def _tokens_per_second(runner: ChunkRunner, chunk: Sequence[int]) -> float:
    """Single tokens after a short prompt: the median, as neighbours take their turns too."""
    n = min(_TIMED, len(chunk) // 2 - _WARM)
    start = len(chunk) - n - _WARM
    prompt = chunk[: min(SMALLEST, start)]
    runner.clear()
    runner.append(prompt, 0, len(prompt) - 1)
    took = []
    for i in range(n + _WARM):
        began = perf_counter()
        runner.append([chunk[start + i]], len(prompt) + i)
        took.append(perf_counter() - began)
    return 1 / median(took[_WARM:])


def paired(values: Floats, weights: Floats, seed: int) -> tuple[float, float, float]:
    """A ratio of sums over chunks, and its 95 % bootstrap interval.

    Args:
        values, weights: float64 ``[n_chunks]``.

    Returns:
        ``sum(values) / sum(weights)``, low, high.
    """
    random = np.random.default_rng(seed)
    n = len(values)
    counts = random.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    draws = (counts @ values) / (counts @ weights)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(values.sum() / weights.sum()), float(low), float(high)
