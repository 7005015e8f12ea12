"""Importance matrices: which columns of a model's weights matter on given texts.

llama.cpp's collector (``tools/imatrix``) looks, through the evaluation callback ``cb_eval``, at
every product of a layer's weights with float32 activations and sums the squares of each column of
the activations. Its quantiser weighs the errors of a column by the mean square. Calibrating on text
of the language that a model is for keeps more of that language at few bits a weight (arXiv
2601.18306).

Rows are added one after the other in float32, as llama.cpp adds them: the sums are the same, bit
for bit, and a run that was killed ends with the same numbers as one that was not. It is saved from
time to time in ``TARGET.part``, and goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from trimix_edge.errors import ImatrixError, TargetError, UsageError
from trimix_edge.files import check_gguf_target, fingerprint
from trimix_edge.llama import ggml_tensor
from trimix_edge.llama.backend import deferred_interrupt
from trimix_edge.llama.calibration import CalibrationText, check_settings, plan_chunks
from trimix_edge.llama.chunks import SMALLEST, ChunkRunner
from trimix_edge.llama.imatrix_file import (
    Entry,
    ImportanceMatrix,
    check_sums,
    matrix_of,
    read_imatrix_head,
    write_imatrix,
)
from trimix_edge.llama.model import LlamaModel

Progress = Callable[[int, int], None]
"""Called with the chunks that are done, and all of them."""

DEFAULT_CHUNK = 512
_FEWEST_ROWS = 16  # smaller batches are single tokens and the like
_JOB = "trimix_edge.imatrix.job"


@dataclass(frozen=True)
class ImatrixReport:
    """What :func:`collect_imatrix` made.

    Attributes:
        chunks: of each text, by name, how many chunks were run.
        n_resumed: chunks that an earlier run had done.
        partly: names of weights of which some experts were never used.
    """

    target: Path
    matrix: ImportanceMatrix
    chunks: tuple[tuple[str, int], ...]
    n_resumed: int
    partly: tuple[str, ...] = ()


def collect_imatrix(
    model: Path,
    target: Path,
    texts: Sequence[CalibrationText],
    *,
    chunk_size: int | None = None,
    max_chunks: int | None = None,
    process_output: bool = False,
    threads: int = 0,
    gpu_layers: int = -1,
    overwrite: bool = False,
    save_every: float = 30.0,
    on_loading: Callable[[float], None] | None = None,
    on_progress: Progress | None = None,
) -> ImatrixReport:
    """Run a model over texts and write its importance matrix in llama.cpp's format.

    Args:
        model: a GGUF file; unquantised, or Q8_0 where that does not fit into memory.
        target: the file to write; ``TARGET.part`` beside it holds an unfinished run, which is
            gone on with.
        texts: all with shares, or none.
        chunk_size: tokens that are read at once, a multiple of 32; 512 if absent, as in
            llama.cpp, or what the model was trained on.
        max_chunks: no more than these, in all.
        process_output: also the output matrix, which llama.cpp leaves out unless told.
        threads: 0 for one a physical core.
        overwrite: replace the target, and begin again where ``TARGET.part`` is of another run.
        save_every: seconds between two savings.

    Raises:
        UsageError: a setting makes no sense.
        ModelLoadError, ContextError: the model can't be run.
        ImatrixError: a text is too short, an unfinished run can't be gone on with, or activations
            are not finite.
        TargetError: the target can't be written.
        KeyboardInterrupt: Ctrl-C; what was done is kept for the next run.
    """
    check_settings(texts, chunk_size, max_chunks)
    check_gguf_target(target, overwrite=overwrite)
    partial = target.with_name(f"{target.name}.part")
    with LlamaModel(model, gpu_layers=gpu_layers, on_progress=on_loading) as loaded:
        if chunk_size is None:
            chunk_size = min(DEFAULT_CHUNK, loaded.n_ctx_train // SMALLEST * SMALLEST) or SMALLEST
        if chunk_size > loaded.n_ctx_train:
            raise UsageError(
                f"chunks of {chunk_size} tokens: {model.name} was trained on {loaded.n_ctx_train}"
            )
        plan = plan_chunks(loaded.vocab, texts, chunk_size, max_chunks)
        job = _job(model, texts, chunk_size, max_chunks, process_output)
        matrix = _unfinished(partial, job, overwrite=overwrite) or ImportanceMatrix()
        matrix.datasets, matrix.chunk_size = tuple(text.name for text in texts), chunk_size
        n_resumed = min(matrix.n_chunks, len(plan))
        collector = _Collector(str(model), matrix, process_output)
        with ChunkRunner(loaded, chunk_size, threads=threads, on_node=collector.on_node) as runner:
            _run(runner, collector, plan, partial, job, save_every, on_progress)
    if not matrix.entries:
        raise ImatrixError(f"{model}: none of its products has weights of a layer")
    write_imatrix(target, matrix)
    with suppress(OSError):
        partial.unlink()
    counted = [sum(which == i for which, _ in plan) for i in range(len(texts))]
    partly = tuple(name for name, entry in matrix.entries.items() if not entry.counts.all())
    used = tuple(zip((text.name for text in texts), counted, strict=True))
    return ImatrixReport(target, matrix, used, n_resumed, partly)


def _run(
    runner: ChunkRunner,
    collector: _Collector,
    plan: Sequence[tuple[int, Sequence[int]]],
    partial: Path,
    job: str,
    save_every: float,
    on_progress: Progress | None,
) -> None:
    matrix, saved = collector.matrix, monotonic()
    is_saved = True
    try:
        while matrix.n_chunks < len(plan):
            # All rows of logits: the last layer computes no others.
            runner.run(plan[matrix.n_chunks][1])
            with deferred_interrupt():  # a chunk counts whole, or not at all
                collector.commit()
            is_saved = False
            if on_progress is not None:
                on_progress(matrix.n_chunks, len(plan))
            if monotonic() - saved >= save_every:
                write_imatrix(partial, matrix, extra={_JOB: job})
                saved, is_saved = monotonic(), True
    except KeyboardInterrupt:
        if not is_saved:
            write_imatrix(partial, matrix, extra={_JOB: job})
        raise


class _Collector:
    """Sums squares in llama.cpp's callback; a chunk counts once it is whole."""

    def __init__(self, source: str, matrix: ImportanceMatrix, process_output: bool) -> None:
        self.matrix = matrix
        self._source = source
        self._process_output = process_output
        self._chunk: dict[str, Entry] = {}
        self._ops: dict[int, str] = {}
        self._is_checked = False

    def on_node(self, address: int, ask: bool) -> bool:
        """See :data:`~trimix_edge.llama.chunks.OnNode`."""
        node = ggml_tensor.tensor_at(address)
        op = self._ops.get(node.op)
        if op is None:
            op = self._ops[node.op] = ggml_tensor.op_name(node)
        if op not in ("MUL_MAT", "MUL_MAT_ID"):
            return not ask
        weight, activations = node.src[0].contents, node.src[1].contents
        name = ggml_tensor.weight_name(weight)
        if ask:
            return op == "MUL_MAT_ID" or self._is_wanted(name, activations)
        if not self._is_checked:
            ggml_tensor.check_layout(activations)
            self._is_checked = True
        if op == "MUL_MAT_ID":
            self._take_experts(name, weight, activations, node.src[2].contents)
        else:
            self._take(name, weight, activations)
        return True

    def _is_wanted(self, name: str, activations: Any) -> bool:
        if activations.ne[1] < _FEWEST_ROWS or activations.type != ggml_tensor.F32:
            return False
        return name.startswith("blk.") or (self._process_output and name == "output.weight")

    def _take(self, name: str, weight: Any, activations: Any) -> None:
        """``MUL_MAT``; activations that are 3D, as rows, where the weight is 2D."""
        n2, n3 = weight.ne[2], weight.ne[3]
        entry = self._entry(name, n2 * n3, 1, activations.ne[0])
        rows = ggml_tensor.values(activations)
        for i3, i2 in np.ndindex(rows.shape[:2]):
            add_squares(rows[i3, i2], entry.sums[(i3 % n3) * n2 + i2 % n2])
        entry.counts += math.prod(rows.shape[:3]) // (n2 * n3)

    def _take_experts(self, name: str, weight: Any, activations: Any, ids: Any) -> None:
        """``MUL_MAT_ID``: ``ids`` says which of a token's rows goes to which expert."""
        n_experts = weight.ne[2]
        entry = self._entry(name, n_experts, n_experts, activations.ne[0])
        rows = ggml_tensor.values(activations)[0]  # [n_tokens, n_rows, n_columns]
        chosen = ggml_tensor.values(ids)[0, 0].T  # [n_used, n_tokens]
        for expert in np.unique(chosen):
            if not 0 <= expert < n_experts:
                raise ImatrixError(f"{self._source}: {name} has no expert {expert}")
            slots, tokens = np.nonzero(chosen == expert)
            add_squares(rows[tokens, slots % rows.shape[1]], entry.sums[expert])
            entry.counts[expert] += len(tokens)

    def _entry(self, name: str, n_matrices: int, n_counts: int, n_columns: int) -> Entry:
        """The sums so far, this chunk's among them."""
        if name not in self._chunk:
            old = self.matrix.entries.get(name)
            if old is None:
                zeros = np.zeros((n_matrices, n_columns), np.float32)
                self._chunk[name] = Entry(zeros, np.zeros(n_counts, np.int64))
            else:
                self._chunk[name] = Entry(old.sums.copy(), old.counts.copy())
        entry = self._chunk[name]
        if entry.sums.size != n_matrices * n_columns or len(entry.counts) != n_counts:
            raise ImatrixError(f"{self._source}: {name} is multiplied with rows of two sizes")
        entry.sums = entry.sums.reshape(n_matrices, n_columns)
        return entry

    def commit(self) -> None:
        """Keep what the chunk added.

        Raises:
            ImatrixError: activations that are not finite.
        """
        for name, entry in self._chunk.items():
            check_sums(self._source, name, entry.sums)
        self.matrix.entries.update(self._chunk)
        self._chunk = {}
        self.matrix.n_chunks += 1


def add_squares(rows: npt.NDArray[np.float32], sums: npt.NDArray[np.float32]) -> None:
    """Add the squares of rows, float32 ``[n_rows, n_columns]``, to ``[n_columns]`` sums in place,
    one row after the other."""
    terms = np.empty((len(rows) + 1, len(sums)), np.float32)
    terms[0] = sums
    np.square(rows, out=terms[1:])
    np.add.reduce(terms, axis=0, out=sums)


def _job(model: Path, texts: Sequence[CalibrationText], *settings: object) -> str:
    """What makes two runs the same."""
    digests = [(hashlib.sha256(t.text.encode()).hexdigest(), t.share) for t in texts]
    told = json.dumps([fingerprint(model), digests, settings])
    return hashlib.sha256(told.encode()).hexdigest()


def _unfinished(partial: Path, job: str, *, overwrite: bool) -> ImportanceMatrix | None:
    """What an earlier run of the same job had done.

    Raises:
        TargetError: the file is of another run, or damaged.
    """
    if not partial.exists():
        return None
    try:
        head = read_imatrix_head(partial)
        if head.get(_JOB, str) == job:
            return matrix_of(head)
        why = "is an unfinished run with another model, other texts or other settings"
    except ImatrixError as error:
        why = f"can't be gone on with ({error})"
    if overwrite:
        return None
    raise TargetError(f"{partial} {why}: remove it, or begin again with --force")
