"""Models in another process, and their contexts, as far as a trio needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimix_edge.config import ContextParams
from trimix_edge.llama import LlamaContext, LlamaModel
from trimix_edge.llama.backend import physical_cores
from trimix_edge.llama.context import BatchItem
from trimix_edge.rpc.worker import Worker

_keys = count(1)
"""Names of models, adapters and contexts in the other process."""


class RemoteModel:
    """A model that a worker has loaded, as far as a trio needs one.

    Args:
        options: ``gpu_layers``, ``n_vocab`` and ``repack``, as for
            :class:`~trimix_edge.llama.LlamaModel`; the layers for a GPU go to the servers.
        addresses: the servers, among which llama.cpp spreads the layers.
        context: ``rpc_split`` and ``rpc_output`` count.

    Attributes:
        n_ctx_train: tokens of context that the model was trained on.

    Raises:
        RpcError: a server was lost.
        ModelLoadError: see :class:`~trimix_edge.llama.LlamaModel`.
    """

    def __init__(
        self,
        worker: Worker,
        path: Path,
        addresses: Sequence[str],
        context: ContextParams,
        on_progress: Callable[[float], None] | None = None,
        **options: Any,
    ) -> None:
        self.worker, self.key = worker, next(_keys)
        self.n_ctx_train: int = worker.call(
            *("load", self.key, path, options),
            *(tuple(addresses), context.rpc_split, context.rpc_output),
            on_progress=on_progress,
        )

    def load_adapter(self, path: Path) -> int:
        """See :meth:`LlamaModel.load_adapter`; what is returned is for contexts of this model."""
        key = next(_keys)
        self.worker.call("adapter", key, self.key, path)
        return key

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *exception: object) -> None:
        """Its memory goes with the worker."""


class RemoteContext:
    """A context in a worker, as :class:`~trimix_edge.llama.LlamaContext` is one here.

    :meth:`decode` only starts the work, so that models here compute meanwhile.

    Attributes:
        failure: what :meth:`finish` or :meth:`logits` is to raise.
    """

    def __init__(
        self, model: RemoteModel, name: str, params: ContextParams, adapter: int | None = None
    ) -> None:
        self._worker, self._key = model.worker, next(_keys)
        self._n_threads = params.n_threads or physical_cores()
        self._n_rows = 0
        self._is_cancelled: Callable[[], bool] | None = None
        self.failure: Exception | None = None
        self.tokens: list[list[int]] = [[] for _ in range(params.n_parallel)]
        self.n_ctx = params.n_ctx
        self.max_rows, self.n_kv_bytes, n_vocab = self._call(
            "context", model.key, name, params, adapter
        )
        offset, self._rows = self._worker.share((self.max_rows, n_vocab))
        self._call("share", offset, self._rows.shape)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._worker.call(name, self._key, *arguments)

    def set_threads(self, n_threads: int) -> None:
        """See :meth:`LlamaContext.set_threads`."""
        self._n_threads = n_threads

    def n_past(self, seq: int) -> int:
        """Tokens in a sequence."""
        return len(self.tokens[seq])

    def decode(
        self, items: Sequence[BatchItem], *, is_cancelled: Callable[[], bool] | None = None
    ) -> None:
        """Begin to append tokens, which count as appended until they are truncated.

        Raises:
            RpcError: the servers are lost.
        """
        self.failure, self._is_cancelled = None, is_cancelled
        sent = [(item.seq, list(item.tokens), item.n_rows) for item in items]
        self._worker.begin(
            self, "decode", self._key, sent, self._n_threads, is_cancelled is not None
        )
        for seq, tokens, _ in sent:
            self.tokens[seq] += tokens
        self._n_rows = sum([n_rows for _, _, n_rows in sent])

    def finish(self) -> None:
        """Wait for the last decode.

        Raises:
            DecodeError, RpcError: what ended it.
        """
        self._worker.collect(self, self._is_cancelled)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def logits(self) -> npt.NDArray[np.float32]:
        """The rows of the last decode, float32 ``[n_rows, n_vocab]``; valid until the next one.

        Raises:
            DecodeError, RpcError: what ended it.
        """
        self.finish()
        return self._rows[: self._n_rows]

    def truncate(self, seq: int, n_past: int) -> None:
        """See :meth:`LlamaContext.truncate`; nothing where the servers are lost."""
        del self.tokens[seq][n_past:]
        if not self._worker.is_lost:
            self._call("truncate", seq, n_past)

    def copy_prefix(self, source: int, target: int, n: int) -> None:
        """See :meth:`LlamaContext.copy_prefix`; nothing where the servers are lost."""
        self.tokens[target] = self.tokens[source][:n]
        if not self._worker.is_lost:
            self._call("copy_prefix", source, target, n)

    def state(self, seq: int) -> npt.NDArray[np.uint8]:
        """See :meth:`LlamaContext.state`."""
        state: npt.NDArray[np.uint8] = self._call("state", seq)
        return state

    def restore(self, state: npt.NDArray[np.uint8], tokens: Sequence[int]) -> None:
        """See :meth:`LlamaContext.restore`."""
        self.tokens[0] = []
        self._call("restore", np.array(state), list(tokens))
        self.tokens[0] = list(tokens)

    def __enter__(self) -> RemoteContext:
        return self

    def __exit__(self, *exception: object) -> None:
        """Its memory goes with the worker."""


Context = LlamaContext | RemoteContext


def context_of(
    model: LlamaModel | RemoteModel, name: str, params: ContextParams, adapter: Any = None
) -> Context:
    """A context where the model is: in this process, or in the worker's."""
    if isinstance(model, RemoteModel):
        return RemoteContext(model, name, params, adapter)
    return LlamaContext(model, name, params, adapter)
