"""Numbers as people write them: any script's digits, any usual grouping, a decimal point or comma.

A form may have two readings: ``1,234`` is 1234 to some and 1.234 to others. All readings are
returned, and the judge compares them with the reference's.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

_SAME = {
    **dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f\u205f", " "),  # no-break, thin, narrow spaces
    **dict.fromkeys("\u2019\u02bc\uff07", "'"),
    **dict.fromkeys("\uff0c\u060c\u1802", ","),  # full-width, Arabic, Mongolian
    **dict.fromkeys("\uff0e\u066b", "."),  # full-width; Arabic's decimal sign
    "\u066c": "'",  # Arabic's grouping sign: it groups, and does nothing else
    **dict.fromkeys("\u2212\uff0d", "-"),
    "\uff0b": "+",
}
_SUPERSCRIPTS = {
    ord(sign): ascii_
    for sign, ascii_ in zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b",
                            "0123456789-", strict=True)
}  # fmt: skip
_RAISED = "".join(map(chr, _SUPERSCRIPTS))

_FOUND = re.compile(
    rf"(?<![\w.,'])10(?:\^(?P<ten>[-+]?[0-9]+)|(?P<ten_raised>[{_RAISED}]+))|"
    r"(?P<sign>(?<![\w).,])-)?"
    r"(?P<body>[0-9]+(?:[.,'][0-9]+| [0-9]{3}(?![0-9]))*|(?<![\w.,'])\.[0-9]+)"
    r"(?:[eE](?P<e>[-+]?[0-9]+)(?!\w)"
    rf"| ?[\u00d7x*\u00b7] ?10(?:\^(?P<power>[-+]?[0-9]+)|(?P<raised>[{_RAISED}]+)))?"
)
_LEAD = r"[1-9][0-9]{0,2}"
# Of each form what groups, and what begins the decimals.
_FORMS = tuple(
    (re.compile(form), group, point)
    for form, group, point in (
        (r"[0-9]*(?:\.[0-9]+)?", "", "."),
        (r"[0-9]+,[0-9]+", "", ","),
        (rf"{_LEAD}(?:,[0-9]{{3}})+(?:\.[0-9]+)?", ",", "."),
        (r"[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?", ",", "."),  # lakhs and crores
        (rf"{_LEAD}(?: [0-9]{{3}})+(?:\.[0-9]+)?", " ", "."),
        (rf"{_LEAD}(?: [0-9]{{3}})+,[0-9]+", " ", ","),
        (rf"{_LEAD}(?:'[0-9]{{3}})+(?:\.[0-9]+)?", "'", "."),
        (rf"{_LEAD}(?:'[0-9]{{3}})+,[0-9]+", "'", ","),
        (rf"{_LEAD}(?:\.[0-9]{{3}})+,[0-9]+", ".", ","),
        (rf"{_LEAD}(?:\.[0-9]{{3}}){{2,}}", ".", ","),
    )
)
_MAX_DIGITS = 400


def last_number(text: str) -> frozenset[Decimal]:
    """The readings of the last number in a text; none if it has no number.

    Digits of all scripts are the same. Groups of three stand between spaces, commas, apostrophes
    or, where that is plain, points; those of Indian counting between commas. One comma before three
    digits has both readings. Exponents are ``e3``, ``×10^3`` and ``×10³``.
    """
    all_found = list(_FOUND.finditer(_plain(text)))
    if not all_found or len(all_found[-1][0]) > _MAX_DIGITS:
        return frozenset()
    found = all_found[-1]
    written = next(filter(None, found.group("e", "power", "raised", "ten", "ten_raised")), "0")
    exponent = written.translate(_SUPERSCRIPTS)
    if not re.fullmatch(r"[-+]?[0-9]{1,4}", exponent) or abs(int(exponent)) > _MAX_DIGITS:
        return frozenset()
    body, sign = found["body"] or "1", found["sign"] or ""
    while not (readings := _readings(body)):  # not one number but a list: the last one counts
        body, sign = _without_first(body), ""
    return frozenset(Decimal(f"{sign}{digits}e{exponent}") for digits in readings)


def _readings(body: str) -> set[str]:
    return {
        body.replace(group, "").replace(point, ".") if group else body.replace(point, ".")
        for form, group, point in _FORMS
        if form.fullmatch(body)
    }


def _without_first(body: str) -> str:
    """The rest of a list after its first number; its last one, if one sign parts them all."""
    signs = re.sub(r"[0-9]", "", body)
    if len(signs) > 1 and len(set(signs)) == 1:
        return body.rpartition(signs[0])[2]
    return re.sub(r"^[0-9]*[.,' ]", "", body)


def _plain(text: str) -> str:
    """With ASCII digits and signs; a sign that raises (``10³``) stays raised."""
    return "".join(
        str(unicodedata.decimal(letter)) if letter.isdecimal() else _SAME.get(letter, letter)
        for letter in text
    )
