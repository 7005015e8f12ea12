"""Scripts that languages are written in, by Unicode's property Script.

The data are those of the package ``regex``. Characters that scripts share (ASCII digits, most
punctuation, spaces: Script=Common) and marks that take the script of their letter (Inherited) are
of no script here; a script's own digits and signs, as Tibetan's, are of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from trimix_edge.errors import UsageError

if TYPE_CHECKING:
    import regex

_OF_NO_SCRIPT = " \u0300\uffff"
"""A character of Common, of Inherited and of Unknown."""


@lru_cache(maxsize=256)  # codes may come from requests: not without a bound
def script_pattern(code: str) -> regex.Pattern[str] | None:
    """Runs of characters of a script; None where the code stands for none."""
    import regex  # only where scripts are asked for: it takes its time to load

    if not (code.isascii() and code.isalpha()):
        return None
    try:
        pattern = regex.compile(rf"\p{{Script={code}}}+")
    except regex.error:
        return None
    return None if pattern.search(_OF_NO_SCRIPT) else pattern


def check_script(code: str) -> str:
    """A code of ISO 15924, as it is written there: ``tibt`` becomes ``Tibt``.

    Raises:
        UsageError: Unicode knows no such script, or it is none that a language is written in.
    """
    if len(code) != 4 or script_pattern(code) is None:
        raise UsageError(
            f"script {code[:40]!r} is no four-letter code of ISO 15924 that Unicode has characters "
            f"of, such as Tibt, Arab, Mong, Beng, Taml, Telu or Orya"
        )
    return code.capitalize()
