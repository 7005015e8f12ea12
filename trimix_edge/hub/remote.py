"""The head of a GGUF file that stays on the Hub: a few megabytes by range requests.

The one reader of such files does the reading (:func:`trimix_edge.gguf.check_header`); here is only
what brings it the bytes. A server is no more trusted than the file: it is asked for pieces, what it
sends is counted, and requests, bytes and time are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status

from trimix_edge.errors import HubError, UsageError
from trimix_edge.gguf import GgufFile, Source, check_header
from trimix_edge.hub.client import HubId, Listing, explained, list_files

PIECE = 1 << 20
"""Bytes of a request: a vocabulary of 150,000 tokens takes a few of them."""

MAX_BYTES = 1 << 26
MAX_REQUESTS = 256
MAX_SECONDS = 120.0
TIMEOUT = 10.0
"""Seconds without a byte."""

_FILE = re.compile(r"([^/@]+/[^/@]+(?:@[\w.-]+)?)/([^/]+\.gguf)", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: ``owner/name[@revision]/file.gguf``."""

    hub_id: HubId
    name: str

    @classmethod
    def is_one(cls, text: str) -> bool:
        match = _FILE.fullmatch(text)
        return match is not None and HubId.is_one(match[1])

    @classmethod
    def parse(cls, text: str) -> HubFile:
        """Read ``owner/name[@revision]/file.gguf``.

        Raises:
            UsageError: not of that form.
        """
        match = _FILE.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} is no file of the Hub: write owner/name/file.gguf")
        return cls(HubId.parse(match[1]), match[2])


def gguf_names(listing: Listing) -> list[str]:
    """The GGUF models at the top of a repository, of each in several parts the first."""
    names = [file.name for file in listing.matching(r".*\.gguf")]
    return [name for name in names if not _PART.search(name) or "-00001-of-" in name]


def read_head(file: HubFile, listing: Listing | None = None) -> GgufFile:
    """Read the head of a file on the Hub, and of its other parts.

    Args:
        listing: of the repository, if it is known.

    Raises:
        HubError: no such file, no permission, or the server does not do as asked.
        OutOfReachError: the Hub can't be asked.
        ModelLoadError: the file is no GGUF, or damaged.
    """
    known = list_files(file.hub_id) if listing is None else listing
    sizes = {remote.name: remote.n_bytes for remote in known.files}
    budget = _Budget()

    @contextmanager
    def opened(path: Path) -> Iterator[tuple[Source, int]]:
        if path.name not in sizes:
            raise HubError(f"{file.hub_id} lacks the file {path.name}")
        yield RangeFile(known, path.name, sizes[path.name], budget), sizes[path.name]

    return check_header(Path(str(file.hub_id)) / file.name, opened)


class _Budget:
    """What the head of one model may cost."""

    def __init__(self) -> None:
        self._requests = self._bytes = 0
        self._end = monotonic() + MAX_SECONDS

    def request(self, n: int, what: str) -> None:
        self._requests += 1
        self._bytes += n
        if self._requests > MAX_REQUESTS or self._bytes > MAX_BYTES:
            raise HubError(
                f"{what}: its head is more than {MAX_BYTES >> 20} MB or lies in more than "
                f"{MAX_REQUESTS} places: download the file and plan for that"
            )

    def check_time(self, what: str) -> None:
        if monotonic() > self._end:
            raise HubError(f"{what}: its head took longer than {MAX_SECONDS:.0f} s: try again")


class RangeFile:
    """A file of the Hub at one commit, a piece of which is asked for at a time."""

    def __init__(self, listing: Listing, name: str, size: int, budget: _Budget) -> None:
        self._hub_id = listing.hub_id
        self._name = name
        self._size = size
        self._budget = budget
        self._url = hf_hub_url(listing.hub_id.repo, name, revision=listing.commit)
        self._at = 0

    def seek(self, position: int, /) -> int:
        self._at = position
        return position

    def read(self, n: int, /) -> bytes:
        """At least ``n`` bytes, unless the file ends before.

        Raises:
            HubError, OutOfReachError: see :func:`read_head`.
        """
        n = min(max(n, PIECE), self._size - self._at)
        if n <= 0:
            return b""
        what = f"{self._name} of {self._hub_id}"
        self._budget.request(n, what)
        with explained(self._hub_id, self._name):
            data = self._ask(n, what)
        self._at += len(data)
        return data

    def _ask(self, n: int, what: str) -> bytes:
        headers = {
            **build_hf_headers(),
            "Range": f"bytes={self._at}-{self._at + n - 1}",
            "Accept-Encoding": "identity",  # what is counted must be what the file holds
        }
        with get_session().stream("GET", self._url, headers=headers, timeout=TIMEOUT) as response:
            hf_raise_for_status(response)
            told = response.headers.get("Content-Range", "")
            if response.status_code != 206 or not told.startswith(f"bytes {self._at}-"):
                raise HubError(f"{what}: the server does not send parts of files: download it")
            pieces, have = [], 0
            for piece in response.iter_raw(1 << 16):
                pieces.append(piece)
                have += len(piece)
                self._budget.check_time(what)
                if have >= n:
                    break
        if have < n:
            raise HubError(f"{what}: the connection broke: try again")
        return b"".join(pieces)[:n]
