"""The committed checkpoints, and llama.cpp as a witness of what a converted file says."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader
from trimix_convert import ConversionError, convert_checkpoint

HERE = Path(__file__).parent


class Witness:
    """One GGUF file loaded by llama.cpp: its token ids and logits, through low-level calls."""

    def __init__(self, path: Path, stack: ExitStack, adapter: Path | None = None) -> None:
        self._api = api = pytest.importorskip("llama_cpp")
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"llama.cpp does not load {path}"
        stack.callback(api.llama_model_free, self.model)
        self._adapter = None
        if adapter is not None:
            self._adapter = api.llama_adapter_lora_init(self.model, str(adapter).encode())
            assert self._adapter, f"llama.cpp does not load {adapter}"
        self.vocab = api.llama_model_get_vocab(self.model)
        self.n_vocab: int = api.llama_vocab_n_tokens(self.vocab)

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        data = text.encode()
        room = len(data) + 16
        buffer = (self._api.llama_token * room)()
        n = self._api.llama_tokenize(
            self.vocab, data, len(data), buffer, room, add_special, parse_special
        )
        assert n >= 0
        return list(buffer[:n])

    def logits(self, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Logits after every token, `[n_tokens, n_vocab]`, computed in float32 throughout."""
        api, n = self._api, len(token_ids)
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = api.GGML_TYPE_F32
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.swa_full = True
        context = api.llama_init_from_model(self.model, params)
        assert context
        batch = api.llama_batch_init(n, 0, 1)
        try:
            if self._adapter is not None:
                adapters = (api.llama_adapter_lora_p_ctypes * 1)(self._adapter)
                scales = (ctypes.c_float * 1)(1.0)
                assert api.llama_set_adapters_lora(context, adapters, 1, scales) == 0
            batch.n_tokens = n
            for i, token_id in enumerate(token_ids):
                batch.token[i], batch.pos[i] = int(token_id), i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = True
            assert api.llama_decode(context, batch) == 0
            rows = api.llama_get_logits(context)
            return np.ctypeslib.as_array(rows, (n, self.n_vocab)).copy()
        finally:
            api.llama_batch_free(batch)
            api.llama_free(context)

    def special(self, kind: str) -> int:
        """The id of the bos, eos, pad ... token."""
        return int(getattr(self._api, f"llama_vocab_{kind}")(self.vocab))

    def adds_bos(self) -> bool:
        return bool(self._api.llama_vocab_get_add_bos(self.vocab))

    def ends(self) -> set[int]:
        """Every token at which llama.cpp stops generating."""
        return {i for i in range(self.n_vocab) if self._api.llama_vocab_is_eog(self.vocab, i)}


@pytest.fixture(scope="session")
def _silence() -> Iterator[None]:
    """llama.cpp prints nothing; the callback must live as long as it may be called."""
    api = pytest.importorskip("llama_cpp")
    callback = api.llama_log_callback(lambda level, text, user_data: None)
    api.llama_log_set(callback, ctypes.c_void_p(0))
    yield
    api.llama_log_set(api.llama_log_callback(0), ctypes.c_void_p(0))


@pytest.fixture
def load(_silence: None) -> Iterator[Callable[..., Witness]]:
    """Loads a GGUF file in llama.cpp and frees it after the test."""
    with ExitStack() as stack:
        yield lambda path, adapter=None: Witness(path, stack, adapter)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """A private copy of a committed checkpoint, with changes to its config.json."""

    def copy(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(HERE / "checkpoints" / name, folder)
        if changes:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return folder

    return copy


@pytest.fixture
def refuse() -> Callable[..., None]:
    """Asserts that a conversion ends in one line with the given words and leaves nothing."""

    def refused(
        source: Path, target: Path, kind: type[Exception], *words: str, **options: Any
    ) -> None:
        before = sorted(target.parent.iterdir())
        with pytest.raises(kind) as caught:
            convert_checkpoint(source, target, **options)
        assert isinstance(caught.value, ConversionError)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 400
        for word in words:
            assert word in message
        assert sorted(target.parent.iterdir()) == before

    return refused


@pytest.fixture
def golden() -> Callable[[str], dict[str, npt.NDArray[Any]]]:
    """What transformers and tokenizers computed for a committed checkpoint."""

    def read(name: str) -> dict[str, npt.NDArray[Any]]:
        with np.load(HERE / "goldens" / f"{name}.npz") as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def lines() -> list[str]:
    """200 lines of many scripts."""
    return list(json.loads((HERE / "lines.json").read_text("utf-8")))


@pytest.fixture
def fields() -> Callable[[Path], dict[str, Any]]:
    """The metadata of a GGUF file as Python values."""

    def read(path: Path) -> dict[str, Any]:
        return {name: field.contents() for name, field in GGUFReader(path).fields.items()}

    return read
