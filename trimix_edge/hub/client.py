"""The Hugging Face Hub: what a repository holds, and its files in the local cache or a folder.

huggingface_hub does the work, so its environment is obeyed (``HF_HOME``, ``HF_ENDPOINT``,
``HF_TOKEN``, ``HF_HUB_OFFLINE``), its cache is shared with other tools, and a connection that
breaks is taken up where it broke. Files come one after another on the calling thread: Ctrl-C
stops at once.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trimix_edge.errors import DiskSpaceError, HubError, TriMixError, UsageError

Progress = Callable[[str, int, int], None]
"""Called with what is going on, the bytes that are done, and all of them."""

# httpx, or what huggingface_hub has in its place, without a dependency on either.
_TransportError: type[BaseException] = HfHubHTTPError.__mro__[1]


@dataclass(frozen=True)
class HubId:
    """A repository, and a branch, tag or commit of it: ``owner/name[@revision]``."""

    repo: str
    revision: str = "main"

    _FORM = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")

    @classmethod
    def parse(cls, text: str) -> HubId:
        """Read ``owner/name[@revision]``.

        Raises:
            UsageError: not of that form.
        """
        match = cls._FORM.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} is no Hub id: write owner/name or owner/name@revision")
        return cls(match[1], match[2] or "main")

    @classmethod
    def is_one(cls, text: str) -> bool:
        return cls._FORM.fullmatch(text) is not None

    @property
    def name(self) -> str:
        """The part behind the owner."""
        return self.repo.partition("/")[2]

    @property
    def page(self) -> str:
        """Where a person finds it."""
        return f"{constants.ENDPOINT}/{self.repo}"

    def __str__(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class RemoteFile:
    """A file at the top of a repository, and its size in bytes."""

    name: str
    n_bytes: int


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit. Only plain names: files in folders are not for us,
    and a name with a path in it could point anywhere."""

    hub_id: HubId
    commit: str
    files: tuple[RemoteFile, ...]

    def __contains__(self, name: str) -> bool:
        return any(file.name == name for file in self.files)

    def matching(self, pattern: str) -> list[RemoteFile]:
        return [file for file in self.files if re.fullmatch(pattern, file.name, re.IGNORECASE)]


class OutOfReachError(HubError):
    """There is no network, or ``HF_HUB_OFFLINE`` forbids to use it: the cache may help."""


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloads."""
    return Path(constants.HF_HUB_CACHE)


def list_files(hub_id: HubId) -> Listing:
    """Ask the Hub what a repository holds.

    Raises:
        HubError: no such repository or revision, no permission.
        OutOfReachError: the Hub can't be asked.
    """
    with explained(hub_id):
        info = HfApi().model_info(hub_id.repo, revision=hub_id.revision, files_metadata=True)
    files = (
        RemoteFile(sibling.rfilename, int(sibling.size or 0)) for sibling in info.siblings or ()
    )
    plain = tuple(file for file in files if _is_plain(file.name))
    return Listing(hub_id, info.sha or hub_id.revision, plain)


def _is_plain(name: str) -> bool:
    return not (name.startswith(".") or re.search(r"[/\\:\0]", name))


def not_yet_cached(listing: Listing, files: Sequence[RemoteFile]) -> int:
    """Bytes of these files that are not in the cache."""
    repo, commit = listing.hub_id.repo, listing.commit
    return sum(
        file.n_bytes
        for file in files
        if not isinstance(try_to_load_from_cache(repo, file.name, revision=commit), str)
    )


def fetch(
    listing: Listing,
    files: Sequence[RemoteFile],
    on_progress: Progress | None = None,
    *,
    into: Path | None = None,
) -> Path:
    """Bring files into the cache, or into a folder.

    Returns:
        The folder that holds them.

    Raises:
        HubError: see :func:`list_files`; also a file that is missing, or gated.
        DiskSpaceError: the disk filled up.
    """
    hub_id = listing.hub_id
    total = sum(file.n_bytes for file in files)
    before = 0
    folders: set[Path] = set()
    for file in files:
        meter = _meter(f"downloading {hub_id.name}", before, total, on_progress)
        with explained(hub_id, file.name):
            path = hf_hub_download(
                hub_id.repo,
                file.name,
                revision=hub_id.revision,
                local_dir=into,
                tqdm_class=meter,
            )
        folders.add(Path(path).parent)
        before += file.n_bytes
        if on_progress is not None:
            on_progress(f"downloading {hub_id.name}", before, total)
    if len(folders) != 1:
        raise HubError(f"{hub_id} changed while it was downloaded: run this again")
    return folders.pop()


def cached_snapshot(hub_id: HubId) -> Path | None:
    """The folder in the cache with what was fetched of a repository; None if nothing was."""
    try:
        return Path(snapshot_download(hub_id.repo, revision=hub_id.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _meter(label: str, before: int, total: int, on_progress: Progress | None) -> type:
    """A class that takes the place of tqdm in huggingface_hub, and only counts bytes."""

    class Meter:
        def __init__(self, *arguments: object, initial: int = 0, **settings: object) -> None:
            self.n = 0
            self.total = settings.get("total")
            self.update(initial)

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if on_progress is not None:
                on_progress(label, before + self.n, total)

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire; counted are those that reach the disk."""

        def _ignore(self, *arguments: object, **settings: object) -> None:
            pass

        close = refresh = set_description = set_description_str = _ignore
        set_postfix_str = set_transfer_postfix_str = _ignore

        def __enter__(self) -> Meter:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

    return Meter


@contextmanager
def explained(hub_id: HubId, file: str = "") -> Iterator[None]:
    """Turn whatever a download raises into one line that says what to do.

    That is a zoo: errors of huggingface_hub, of the HTTP client below it, of hf_xet, of the system.
    """
    try:
        yield
    except TriMixError:
        raise
    except Exception as error:
        raise _explain(error, hub_id, file) from error


def _explain(error: BaseException, hub_id: HubId, file: str) -> TriMixError:
    what = f"{file} of {hub_id}" if file else str(hub_id)
    if isinstance(error, GatedRepoError):
        return HubError(
            f"{hub_id} is gated: accept its licence at {hub_id.page}, log in with `hf auth login` "
            f"or set HF_TOKEN, and run this again"
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{hub_id.repo} has no revision {hub_id.revision!r}")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"no repository {hub_id.repo} on {constants.ENDPOINT}, or it is private: check the "
            f"name, or set HF_TOKEN"
        )
    if isinstance(error, DisabledRepoError):
        return HubError(f"{hub_id} was disabled by its owner or the Hub")
    if isinstance(error, LocalEntryNotFoundError):
        return _explain(error.__cause__ or OSError(str(error)), hub_id, file)
    if isinstance(error, EntryNotFoundError):
        return HubError(f"{hub_id} lacks the file {file}")
    if isinstance(error, OfflineModeIsEnabled):
        return OutOfReachError(f"HF_HUB_OFFLINE forbids to ask for {what}")
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error.response.status_code, what, hub_id)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskSpaceError(f"the disk filled up while {what} was downloaded: make room")
    if isinstance(error, _TransportError):
        return OutOfReachError(
            f"{constants.ENDPOINT} is out of reach ({_line(error)}): is there a network?"
        )
    return HubError(f"{what} could not be downloaded: {_line(error)}")


def _explain_status(status: int, what: str, hub_id: HubId) -> HubError:
    if status in (401, 403):
        return HubError(
            f"the Hub refuses {what} ({status}): if {hub_id.page} asks for it, accept the licence "
            f"there; then check that HF_TOKEN may read it"
        )
    advice = "wait a while" if status == 429 else "try again later"
    return HubError(f"the Hub answers {status} when asked for {what}: {advice}")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
