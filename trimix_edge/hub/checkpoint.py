"""The checkpoints of a Hub repository: which of its files are needed, and what room they take."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from trimix_edge.errors import ConversionError, HubError, UsageError
from trimix_edge.files import megabytes, require_space, same_disk
from trimix_edge.hub import client
from trimix_edge.hub.client import HubId, Listing, OutOfReachError, Progress, RemoteFile

ADAPTER_CONFIG = "adapter_config.json"

_SMALL_FILES = (
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens"
    r"|chat_template|adapter_config)\.json|tokenizer\.model|chat_template\.jinja|README\.md"
)
_SAFETENSORS = r"(model(-\d+-of-\d+)?|adapter_model)\.safetensors|model\.safetensors\.index\.json"
_PICKLES = r"(pytorch_model(-\d+-of-\d+)?|adapter_model)\.bin|pytorch_model\.bin\.index\.json"

# Bytes of a GGUF file for one of a half-precision checkpoint. A quantised file takes an
# unquantised one on its way.
_GROWTH = {"f32": 2.0, "f16": 1.0, "bf16": 1.0, "auto": 1.0, "q8_0": 0.6}
_GROWTH_QUANTIZED = 1.6


@dataclass(frozen=True)
class RemoteCheckpoint:
    """The files of a Hub repository that make a checkpoint, or a PEFT adapter."""

    listing: Listing
    files: tuple[RemoteFile, ...]

    @classmethod
    def find(cls, hub_id: HubId) -> RemoteCheckpoint:
        """Ask the Hub for them; safetensors where there are any.

        Raises:
            HubError: see :func:`client.list_files`.
            ConversionError: no checkpoint, or one that needs PyTorch where there is none.
        """
        listing = client.list_files(hub_id)
        if "config.json" not in listing and ADAPTER_CONFIG not in listing:
            raise ConversionError(f"{hub_id} is no checkpoint: it holds no config.json")
        weights = listing.matching(_SAFETENSORS)
        if not weights:
            weights = listing.matching(_PICKLES)
            if weights and find_spec("torch") is None:
                raise ConversionError(
                    f"{hub_id} holds only {weights[0].name}, a pickle, which needs PyTorch to be "
                    f"read: pip install torch"
                )
        if not weights:
            raise ConversionError(f"{hub_id} holds no weights: no safetensors, no pytorch_model")
        # The small ones first: a licence that is not accepted shows at once.
        return cls(listing, (*listing.matching(_SMALL_FILES), *weights))

    @property
    def n_bytes_to_fetch(self) -> int:
        return client.not_yet_cached(self.listing, self.files)

    def working_bytes(self, outtype: str) -> int:
        """Bytes that its conversion writes, at the peak; an estimate on the safe side."""
        n_bytes = sum(file.n_bytes for file in self.files)
        return int(n_bytes * _GROWTH.get(outtype.lower(), _GROWTH_QUANTIZED))

    def fetch(self, on_progress: Progress | None = None) -> Path:
        """The folder in the cache that holds the files, once they are all there."""
        return client.fetch(self.listing, self.files, on_progress)


def find_checkpoint(hub_id: HubId) -> RemoteCheckpoint | Path:
    """A checkpoint on the Hub; where that is out of reach, its folder in the cache.

    Raises:
        HubError, ConversionError: see :meth:`RemoteCheckpoint.find`.
    """
    try:
        return RemoteCheckpoint.find(hub_id)
    except OutOfReachError as error:
        cached = client.cached_snapshot(hub_id)
        if cached is None:
            raise HubError(f"{error}; {hub_id} is not in the cache either") from error
        return cached


def find_folder(
    source: str | Path, outtype: str, beside: Path, on_progress: Progress | None = None
) -> Path:
    """The folder of a checkpoint. One that is on the Hub is brought into the cache.

    Args:
        source: a folder, which wins, or a Hub id.
        outtype: what is to be made of it, in the folder ``beside``: room is looked for first.

    Raises:
        UsageError: neither a folder nor a Hub id.
        HubError, ConversionError, DiskSpaceError: see there.
    """
    if isinstance(source, Path) or Path(source).exists():
        return Path(source)
    if not HubId.is_one(source):
        raise UsageError(f"{source!r} is neither a folder nor a Hub id, owner/name[@revision]")
    hub_id = HubId.parse(source)
    try:
        checkpoint = find_checkpoint(hub_id)
    except HubError as error:
        raise HubError(f"{error} (nor is there a folder {source})") from error
    if isinstance(checkpoint, Path):
        return checkpoint
    require_room(
        beside, checkpoint.working_bytes(outtype), checkpoint.n_bytes_to_fetch, str(hub_id)
    )
    return checkpoint.fetch(on_progress)


def find_base_folder(base: str) -> Path:
    """A folder with the config.json of a checkpoint, which may be on the Hub."""
    if Path(base).is_dir():
        return Path(base)
    if not HubId.is_one(base):
        raise UsageError(f"the base model {base!r} is neither a folder nor a Hub id: use --base")
    hub_id = HubId.parse(base)
    try:
        listing = client.list_files(hub_id)
    except OutOfReachError:
        cached = client.cached_snapshot(hub_id)
        if cached is None:
            raise
        return cached
    if "config.json" not in listing:
        raise ConversionError(f"the base model {hub_id} is no checkpoint: it holds no config.json")
    return client.fetch(listing, listing.matching(r"config\.json"))


def require_room(folder: Path, n_working: int, n_to_fetch: int, what: str) -> None:
    """Refuse work that would fill a disk, before its first byte.

    Args:
        n_working: bytes to be written into ``folder``, at the peak.
        n_to_fetch: bytes to be downloaded into the cache, which may be on the same disk.

    Raises:
        DiskSpaceError: tells how much is needed, and where.
    """
    cache = client.cache_folder()
    if same_disk(folder, cache):
        both = f"{megabytes(n_to_fetch)} to download, {megabytes(n_working)} to write"
        require_space(folder, n_working + n_to_fetch, f"{what} ({both})")
    else:
        require_space(cache, n_to_fetch, f"the download of {what}")
        require_space(folder, n_working, f"the conversion of {what}")
