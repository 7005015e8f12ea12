"""Three models of one tokenizer, kept in step: the same tokens go to all that are needed."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Adapter, ContextParams, Role
from trimix_edge.errors import TrioConfigError
from trimix_edge.gguf import DEFAULT_N_CTX, MAX_ROWS, fingerprint, n_file_bytes
from trimix_edge.llama import LlamaContext, LlamaModel, Vocab, backend_info, shared_vocab_size
from trimix_edge.llama.vocab import NamedVocab

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
        n_begun: sequences that were begun: one that is interrupted by another can tell.
        decode_seconds: of the present sequence, by role.

    Raises:
        TrioConfigError: a needed role has no file.
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
        self.models: dict[Role, LlamaModel] = {}
        self._contexts: dict[Role, LlamaContext] = {}
        self._files: dict[Role, list[Path]] = {}
        self._active: tuple[Role, ...] = ()
        self.n_begun = 0
        self.decode_seconds: dict[Role, float] = {}
        adapters = {role: adapter for role, adapter in (adapters or {}).items() if role in roles}
        owners = {r: adapters[r].base if r in adapters else r for r in Role if r in roles}
        _require_files(owners.values(), paths)
        with ExitStack() as stack:
            self.lead, sizes, self.n_vocab = _read_vocabularies(stack, paths, owners.values())
            loaded: dict[Role, LlamaModel] = {}
            for role, owner in owners.items():
                if owner not in loaded:
                    loaded[owner] = stack.enter_context(
                        LlamaModel(
                            paths[owner],
                            gpu_layers=context.gpu_layers.get(owner, -1),
                            n_vocab=sizes[owner],
                            on_progress=_bind(on_progress, owner),
                        )
                    )
                self.models[role] = loaded[owner]
                self._files[role] = [paths[owner], *(a.path for a in [adapters.get(role)] if a)]
            loras = {role: self.models[role].load_adapter(a.path) for role, a in adapters.items()}
            n_train = min(m.n_ctx_train for m in self.models.values())
            on_gpu = backend_info().gpu_offload
            self.context = replace(
                context,
                n_ctx=context.n_ctx or min(n_train, DEFAULT_N_CTX),
                n_batch=context.n_batch or (GPU_N_BATCH if on_gpu else CPU_N_BATCH),
            )
            for role, model in self.models.items():
                self._contexts[role] = stack.enter_context(
                    LlamaContext(model, str(role), self.context, loras.get(role))
                )
            self._stack = stack.pop_all()
        self._start_order = self._gpu_first()

    @property
    def fingerprints(self) -> dict[Role, str]:
        """What tells the weights of each loaded role from others: see :func:`gguf.fingerprint`."""
        return {
            role: "+".join(fingerprint(path) for path in paths)
            for role, paths in self._files.items()
        }

    @property
    def contexts(self) -> Mapping[Role, LlamaContext]:
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

    @property
    def conditions(self) -> dict[str, object]:
        """What the time of a batch depends on, beside the models."""
        info = backend_info()
        return {
            "llama_cpp_python": info.llama_cpp_python,
            "machine": [platform.node(), platform.machine(), info.physical_cores, info.features],
            "devices": info.devices,
            "threads": self.context.n_threads or info.physical_cores,
            "rows": min(self.max_rows, self.n_ctx),
            "gpu_layers": {str(role): n for role, n in self.context.gpu_layers.items()},
            "kv_type": self.context.kv_type,
        }

    def _gpu_first(self) -> tuple[Role, ...]:
        """A decode on a GPU returns at once: start those first, and the CPU works meanwhile."""
        if not backend_info().gpu_offload:
            return tuple(self._contexts)
        layers = self.context.gpu_layers
        return tuple(sorted(self._contexts, key=lambda role: layers.get(role, -1) == 0))

    @property
    def vocab(self) -> Vocab:
        """The vocabulary that texts go through: that of ``large_ins`` where it has a file."""
        return self.lead.vocab

    @property
    def roles(self) -> tuple[Role, ...]:
        """The loaded roles."""
        return tuple(self.models)

    @property
    def active(self) -> tuple[Role, ...]:
        """The roles that follow the present sequence."""
        return self._active

    @property
    def n_ctx(self) -> int:
        return self.context.n_ctx

    @property
    def n_batch(self) -> int:
        return min(self.context.n_batch, self.n_ctx)

    @property
    def max_rows(self) -> int:
        """Rows of logits that one decode may ask for."""
        return min(MAX_ROWS, self.n_batch)

    def start(self, roles: Collection[Role], prompt: Sequence[int] = ()) -> int:
        """Begin a sequence that only these roles, all of them loaded, will follow.

        Args:
            prompt: what will be decoded first. The longest beginning of it that all these contexts
                still hold from before is kept, but for its last token, whose logits are needed.

        Returns:
            How many tokens of the prompt are kept, and must not be decoded again.
        """
        missing = [str(r) for r in roles if r not in self._contexts]
        if missing:
            raise TrioConfigError(f"{', '.join(missing)}: needed here, but not loaded")
        self.n_begun += 1
        self._active = tuple(r for r in self._start_order if r in roles)
        self.decode_seconds = dict.fromkeys(self._active, 0.0)
        kept = min(
            (_common_prefix(self._contexts[role].tokens, prompt) for role in self._active),
            default=0,
        )
        kept = max(0, min(kept, len(prompt) - 1))
        self.truncate(kept)
        return kept

    def focus(self, roles: Collection[Role]) -> None:
        """Go on with these of the active roles only; the others stay where they are."""
        self._active = tuple(role for role in self._active if role in roles)

    def truncate(self, n_past: int) -> None:
        """Forget every token after the first ``n_past``."""
        for role in self._active:
            if self._contexts[role].n_past > n_past:
                self._contexts[role].truncate(n_past)

    def decode(
        self,
        tokens: Sequence[int],
        n_rows: int = 1,
        *,
        roles: Collection[Role] | None = None,
        padding: Mapping[Role, int] | None = None,
        abortable: bool = False,
    ) -> dict[Role, npt.NDArray[np.float32]]:
        """Append tokens, at most ``n_batch``, to the active contexts.

        Args:
            n_rows: logits are computed for this many of the last tokens.
            roles: only these of the active roles; the others are left behind.
            padding: tokens that a role evaluates and forgets on top: see
                :meth:`LlamaContext.decode`.
            abortable: let Ctrl-C stop the computation.

        Returns:
            Of each of the roles the raw logits, float32 ``[n_rows, vocabulary of that model]``, in
            llama.cpp's own memory: valid until the next decode.

        Raises:
            DecodeError: see :meth:`LlamaContext.decode`; all contexts are as they were before.
            KeyboardInterrupt: likewise.
        """
        running = self._active if roles is None else [r for r in self._active if r in roles]
        before = {role: self._contexts[role].n_past for role in running}
        try:
            for role in running:
                start = perf_counter()
                n_pad = padding.get(role, 0) if padding else 0
                self._contexts[role].decode(tokens, n_rows, n_pad=n_pad, abortable=abortable)
                self.decode_seconds[role] += perf_counter() - start
            return {role: self._wait(role) for role in running} if n_rows else {}
        except BaseException:
            for role, n_past in before.items():
                self._contexts[role].truncate(n_past)
            raise

    def _wait(self, role: Role) -> npt.NDArray[np.float32]:
        start = perf_counter()
        logits = self._contexts[role].logits()
        self.decode_seconds[role] += perf_counter() - start
        return logits

    def close(self) -> None:
        """Free contexts, then models; safe to call again."""
        self.n_begun += 1
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
                f"{role} is needed and has no file: name one with "
                f"--{role.value.replace('_', '-')}, or give it the weight 0"
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


def _bind(on_progress: LoadProgress | None, role: Role) -> Callable[[float], None] | None:
    return None if on_progress is None else lambda fraction: on_progress(role, fraction)


def _common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    n = min(len(held), len(prompt))
    return next((i for i in range(n) if held[i] != prompt[i]), n)
