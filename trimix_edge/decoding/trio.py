"""Three models of one tokenizer, kept in step: the same tokens go to all that are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Adapter, ContextParams, Role
from trimix_edge.decoding.feed import Feed, TrioSequence, common_prefix
from trimix_edge.decoding.threads import ThreadCount
from trimix_edge.errors import TrioConfigError, UsageError
from trimix_edge.gguf import DEFAULT_N_CTX, check_header, fingerprint, n_file_bytes
from trimix_edge.llama import LlamaModel, Vocab, backend_info, shared_vocab_size
from trimix_edge.llama.backend import log, physical_cores, reads_faster_plain
from trimix_edge.llama.context import BatchItem
from trimix_edge.llama.model import warn_beyond_training
from trimix_edge.llama.vocab import NamedVocab
from trimix_edge.rpc.remote import Context, RemoteContext, RemoteModel, context_of
from trimix_edge.rpc.worker import Worker

GPU_N_BATCH, CPU_N_BATCH = 512, 128

LoadProgress = Callable[[Role, float], None]
"""Called with a role and the part of its file, 0.0 to 1.0, that has been loaded."""


class Trio:
    """Owner of up to three models and their contexts.

    Args:
        paths: the GGUF file of each role; roles that are not needed may be missing.
        roles: the roles to load. The tokenizer, the ends of generation and the chat template are
            always those of ``large_ins`` if it has a file: of a file that is not needed, only the
            vocabulary is read.
        context: as given by the user; its zeros get their meaning here.
        adapters: roles made of another role's weights, which are then in memory once.

    Attributes:
        decode_seconds: that each role has spent in :meth:`decode`, since loading.
        worker: the process that owns the models of ``context.rpc``; None where there are none.
        threads: chooses how many threads a decode takes, unless ``n_threads`` says so.

    Raises:
        TrioConfigError: a needed role has no file.
        RpcError: a server can't be used, or was lost; :meth:`decode` raises it too.
        ModelLoadError, VocabMismatchError, ContextError: see there.
    """

    def __init__(
        self,
        paths: Mapping[Role, Path],
        roles: Collection[Role],
        context: ContextParams,
        on_progress: LoadProgress | None = None,
        adapters: Mapping[Role, Adapter] | None = None,
    ) -> None:
        self.models: dict[Role, LlamaModel | RemoteModel] = {}
        self._contexts: dict[Role, Context] = {}
        self.worker: Worker | None = None
        self._files: dict[Role, list[Path]] = {}
        self.decode_seconds: dict[Role, float] = {}
        adapters = {role: adapter for role, adapter in (adapters or {}).items() if role in roles}
        owners = {r: adapters[r].base if r in adapters else r for r in Role if r in roles}
        _require_files(owners.values(), paths)
        with ExitStack() as stack:
            servers = {of: context.rpc[of] for of in owners.values() if of in context.rpc}
            if servers:
                addresses = [address for own in servers.values() for address in own]
                self.worker = stack.enter_context(Worker(addresses))
            self.lead, sizes, self.n_vocab = _read_vocabularies(stack, paths, owners.values())
            loaded: dict[Role, LlamaModel | RemoteModel] = {}
            for role, owner in owners.items():
                if owner not in loaded:
                    own: dict[str, Any] = {
                        "gpu_layers": context.gpu_layers.get(owner, -1),
                        "n_vocab": sizes[owner],
                        "repack": not (context.reads and _reads_faster_plain(paths[owner])),
                        "on_progress": _bind(on_progress, owner),
                    }
                    model: LlamaModel | RemoteModel
                    if self.worker is not None and owner in servers:
                        at = servers[owner]
                        model = RemoteModel(self.worker, paths[owner], at, context, **own)
                    else:
                        model = LlamaModel(paths[owner], **own)
                    stack.enter_context(model)
                    loaded[owner] = model
                self.models[role] = loaded[owner]
                self._files[role] = [paths[owner], *(a.path for a in [adapters.get(role)] if a)]
            loras = {role: self.models[role].load_adapter(a.path) for role, a in adapters.items()}
            n_train = min(m.n_ctx_train for m in self.models.values())
            on_gpu = backend_info().gpu_offload
            n_parallel = 1 if context.repeatable else context.n_parallel
            self.context = replace(
                context,
                n_ctx=context.n_ctx or min(n_train, DEFAULT_N_CTX),
                n_batch=max(
                    context.n_batch or (GPU_N_BATCH if on_gpu else CPU_N_BATCH), n_parallel
                ),
                n_parallel=n_parallel,
            )
            for role, model in self.models.items():
                made = context_of(model, str(role), self.context, loras.get(role))
                stack.enter_context(made)
                self._contexts[role] = made
            warn_beyond_training(self.models, self.context.n_ctx)
            self._stack = stack.pop_all()
        is_fixed = (
            bool(self.context.n_threads) or on_gpu or self.context.repeatable or bool(servers)
        )
        self.threads = ThreadCount(self.context.n_threads or physical_cores(), fixed=is_fixed)
        self._order = self._gpu_first()
        self.decode_seconds = dict.fromkeys(self._order, 0.0)

    @property
    def fingerprints(self) -> dict[Role, str]:
        """What tells the weights of each loaded role from others: see :func:`gguf.fingerprint`."""
        return {
            role: "+".join(fingerprint(path) for path in paths)
            for role, paths in self._files.items()
        }

    @property
    def contexts(self) -> Mapping[Role, Context]:
        """The context of each loaded role."""
        return self._contexts

    @property
    def n_file_bytes(self) -> int:
        """Bytes of all files that weights were loaded from, each counted once."""
        paths = {path for paths in self._files.values() for path in paths}
        return sum(n_file_bytes(path) for path in paths)

    @property
    def n_kv_bytes(self) -> int:
        """Bytes that the KV caches of all contexts take."""
        return sum(context.n_kv_bytes for context in self._contexts.values())

    def _gpu_first(self) -> tuple[Role, ...]:
        """A decode elsewhere returns at once: start those first, and the CPU works meanwhile."""
        layers, has_gpu = self.context.gpu_layers, backend_info().gpu_offload

        def is_here(role: Role) -> bool:
            is_remote = isinstance(self._contexts[role], RemoteContext)
            return not is_remote and (not has_gpu or layers.get(role, -1) == 0)

        return tuple(sorted(self._contexts, key=is_here))

    @property
    def vocab(self) -> Vocab:
        """The vocabulary that texts go through: that of ``large_ins`` where it has a file."""
        return self.lead.vocab

    @property
    def roles(self) -> tuple[Role, ...]:
        """The loaded roles."""
        return tuple(self.models)

    @property
    def n_ctx(self) -> int:
        """Tokens that one sequence may hold."""
        return self.context.n_ctx

    @property
    def n_parallel(self) -> int:
        """Sequences that may run at once."""
        return self.context.n_parallel

    @property
    def n_batch(self) -> int:
        """Tokens that one decode may evaluate."""
        return min(self.context.n_batch, self.n_ctx * self.n_parallel)

    @property
    def max_rows(self) -> int:
        """Rows of logits that one decode may ask for."""
        return min(min(c.max_rows for c in self._contexts.values()), self.n_batch)

    def sequence(
        self, roles: Collection[Role], prompt: Sequence[int] = (), seq: int = 0
    ) -> TrioSequence:
        """Begin a sequence by hand, which only these roles follow.

        Args:
            prompt: what will be decoded first: what the contexts hold of it is kept, but for its
                last token, whose logits are needed.

        Raises:
            TrioConfigError: a role is not loaded.
        """
        return TrioSequence(self, roles, seq, prompt)

    def held(self, seq: int, roles: Collection[Role], prompt: Sequence[int]) -> int:
        """How many of a prompt's first tokens a sequence of all these contexts holds; 0 where
        generations are repeatable: what is held was computed in other batches."""
        if self.context.repeatable:
            return 0
        contexts = [self._context(role) for role in roles]
        return min((common_prefix(c.tokens[seq], prompt) for c in contexts), default=0)

    def n_past(self, seq: int, roles: Collection[Role]) -> int:
        """Tokens that a sequence holds in the fullest of these contexts."""
        return max((self._context(role).n_past(seq) for role in roles), default=0)

    def begin(self, seq: int, roles: Collection[Role], source: int, n_kept: int) -> None:
        """Let a sequence begin with ``n_kept`` tokens that another one, or it itself, holds.

        Raises:
            TrioConfigError: a role is not loaded.
        """
        for role in roles:
            context = self._context(role)
            if source == seq:
                context.truncate(seq, n_kept)
            else:
                context.copy_prefix(source, seq, n_kept)

    def _context(self, role: Role) -> Context:
        if role not in self._contexts:
            if not self._contexts:
                raise UsageError("the models were closed: load them again")
            raise TrioConfigError(f"{role}: needed here, but not loaded")
        return self._contexts[role]

    def truncate(self, seq: int, n_past: int, roles: Collection[Role]) -> None:
        """Forget every token of a sequence after the first ``n_past``."""
        for role in roles:
            if self._contexts[role].n_past(seq) > n_past:
                self._contexts[role].truncate(seq, n_past)

    def decode(
        self, feeds: Sequence[Feed], *, is_cancelled: Callable[[], bool] | None = None
    ) -> dict[Role, npt.NDArray[np.float32]]:
        """Append tokens to sequences, one ``llama_decode`` a model for all of them.

        Args:
            feeds: at most ``n_batch`` tokens and ``max_rows`` rows in all, a sequence once.
            is_cancelled: see :meth:`LlamaContext.decode`.

        Returns:
            Of each role that any feed names, the raw logits, float32 ``[rows of the feeds that name
            it, vocabulary of that model]``, in llama.cpp's own memory: valid until the next decode.

        Raises:
            DecodeError: see :meth:`LlamaContext.decode`; all contexts are as they were before.
            KeyboardInterrupt: likewise.
        """
        logits: dict[Role, npt.NDArray[np.float32]] = {}
        done: list[tuple[Role, list[BatchItem]]] = []
        kind: list[tuple[Role, int]] = []
        began, n_threads = perf_counter(), self.threads.choose()
        try:
            for role in self._order:
                items = [BatchItem(f.seq, f.tokens, f.n_rows) for f in feeds if role in f.roles]
                if not items:
                    continue
                start, context = perf_counter(), self._contexts[role]
                context.set_threads(n_threads)
                context.decode(items, is_cancelled=is_cancelled)
                self.decode_seconds[role] += perf_counter() - start
                done.append((role, items))
                kind.append((role, sum([len(item.tokens) for item in items])))
            for role, items in done:
                if any([item.n_rows for item in items]):
                    logits[role] = self._wait(role)
                else:
                    self._contexts[role].finish()
            self.threads.learn(n_threads, tuple(kind), perf_counter() - began)
            return logits
        except BaseException:  # the model that failed is as it was before; the others are not yet
            for role, items in done:
                for seq, tokens, _ in items:
                    context = self._contexts[role]
                    context.truncate(seq, context.n_past(seq) - len(tokens))
            raise

    def _wait(self, role: Role) -> npt.NDArray[np.float32]:
        start = perf_counter()
        logits = self._contexts[role].logits()
        self.decode_seconds[role] += perf_counter() - start
        return logits

    def close(self) -> None:
        """Free contexts, then models; safe to call again."""
        self._stack.close()
        self._contexts.clear()
        self.models.clear()

    def __enter__(self) -> Trio:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _require_files(roles: Collection[Role], paths: Mapping[Role, Path]) -> None:
    for role in roles:
        if role not in paths:
            raise TrioConfigError(
                f"{role} is needed and has no file: name one, or give it the weight 0"
            )


def _read_vocabularies(
    stack: ExitStack, paths: Mapping[Role, Path], needed: Collection[Role]
) -> tuple[LlamaModel, dict[Role, int], int]:
    """Compare the vocabularies of all files before the first gigabyte is read, and keep one.

    Returns:
        The model, without weights, whose vocabulary and chat template count; the size of each
        file's vocabulary; and how many ids they share.
    """
    wanted = set(needed)
    large = paths.get(Role.LARGE_INS)
    if large is not None and os.path.exists(large):  # noqa: PTH110, as it never raises
        wanted.add(Role.LARGE_INS)
    roles = [role for role in Role if role in wanted]
    with ExitStack() as others:
        owners = [stack, *(others for _ in roles[1:])]
        models = [
            owner.enter_context(LlamaModel(paths[role], vocab_only=True))
            for owner, role in zip(owners, roles, strict=True)
        ]
        sizes = {role: model.vocab.size for role, model in zip(roles, models, strict=True)}
        named = [NamedVocab(str(role), m.vocab) for role, m in zip(roles, models, strict=True)]
        return models[0], sizes, shared_vocab_size(named)


def _reads_faster_plain(path: Path) -> bool:
    """Whether a model reads faster here with its weights as they lie in the file, and say so."""
    is_plain = reads_faster_plain(check_header(path).types)
    if is_plain:
        log.info("%s stays as it lies in the file: this CPU reads faster so", path.name)
    return is_plain


def _bind(on_progress: LoadProgress | None, role: Role) -> Callable[[float], None] | None:
    return None if on_progress is None else lambda fraction: on_progress(role, fraction)
