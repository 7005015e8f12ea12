"""``generate --lines``: a generation for each line of the prompt, in order, and resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trimix_edge.cli.console import Bar
from trimix_edge.errors import TargetError

if TYPE_CHECKING:
    from trimix_edge.decoding.prepare import Prompt
    from trimix_edge.decoding.run import Generation
    from trimix_edge.trimix import TriMix

GROUP = 4
"""Lines of a group for each sequence: a place that becomes free has another line to go on with."""


def n_written(path: Path) -> int:
    """Whole lines in a file of results; a line that was cut off is removed from it.

    Raises:
        TargetError: the file can't be read or written.
    """
    if not path.exists():
        return 0
    try:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
    except OSError as error:
        raise TargetError(f"--output {path}: {error.strerror or error}") from None
    return data[:whole].count(b"\n")


def generate_lines(
    trimix: TriMix,
    lines: Sequence[str],
    as_prompt: Callable[[str], Prompt],
    settings: dict[str, Any],
    out: IO[str],
    bar: Bar,
    *,
    n_done: int = 0,
    to_json: Callable[[Generation], dict[str, Any]] | None = None,
) -> None:
    """Write one line for each, an empty one for an empty line.

    Args:
        as_prompt: what a line becomes.
        n_done: lines that were answered before.
        to_json: write JSON Lines instead of texts.
    """
    size = GROUP * trimix.n_parallel
    for start in range(n_done, len(lines), size):
        group = lines[start : start + size]
        wanted = [line for line in group if line.strip()]
        found = iter(trimix.generate_all([as_prompt(line) for line in wanted], **settings))
        for line in group:
            result = next(found) if line.strip() else None
            if to_json is not None:
                record = {} if result is None else to_json(result)
                out.write(json.dumps({"prompt": line, **record}, ensure_ascii=False) + "\n")
            else:
                out.write(" ".join(result.text.split()) + "\n" if result else "\n")
        out.flush()
        bar.update("lines", start + len(group), len(lines))
