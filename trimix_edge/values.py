"""Where plain values become settings: one place for Python, the command line and the manifest.

Each function takes a setting as it is, or what people write for it: ``"auto"`` or ``(0.1, 0.9)``
for weights, ``"saf"`` for a rule, ``4`` for a draft. Messages name the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from trimix_edge.config import (
    RULE_NAMES,
    ContextParams,
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    RuleChoice,
    SamplingParams,
)
from trimix_edge.errors import UsageError
from trimix_edge.weights import ScriptChoice, WeightChoice, Weights

_MAX_SERVERS = 16  # GGML_RPC_MAX_SERVERS

Settings = TypeVar("Settings", SamplingParams, ContextParams)


def role(value: Role | str) -> Role:
    """``large_ins``, ``small_cpt`` or ``small_base``; dashes and underscores are the same.

    Raises:
        UsageError: there is no such role.
    """
    try:
        return Role(value.strip().replace("-", "_"))
    except (ValueError, AttributeError):
        raise UsageError(f"no role is called {value!r}: use one of {', '.join(Role)}") from None


def fusion_weights(value: FusionWeights | str | Iterable[float]) -> FusionWeights:
    """``"0.1,0.9"``, ``(0.1, 0.9)``, or all three, which must then add up to 1.

    Raises:
        UsageError: not two or three numbers, or three that do not add up to 1.
    """
    if isinstance(value, FusionWeights):
        return value
    parts: list[Any]
    try:
        parts = value.split(",") if isinstance(value, str) else list(value)
    except TypeError:
        parts = []
    numbers = [_finite(part, "weights") for part in parts]
    if len(numbers) == 3 and not math.isclose(sum(numbers), 1.0, abs_tol=1e-6):
        raise UsageError(f"weights: {value} adds up to {sum(numbers):g}, not to 1")
    if len(numbers) not in (2, 3):
        raise UsageError(f"weights: {value!r} is not LARGE_INS,SMALL_CPT, as in 0.1,0.9")
    return FusionWeights(numbers[0], numbers[1])


def weights(value: Weights | str | Iterable[float]) -> Weights:
    """``"auto"``, ``"auto:Tibt"``, ``"auto:all"``, ``"entropy"``, or numbers as for
    :func:`fusion_weights`.

    Raises:
        UsageError: none of them.
    """
    if isinstance(value, str):
        word = value.strip()
        if word in tuple(WeightChoice):
            return WeightChoice(word)
        if word.isidentifier():
            raise UsageError(
                f"weights: {word!r} is neither auto nor entropy nor numbers as in 0.1,0.9"
            )
        name, colon, script = word.partition(":")
        if colon and name == WeightChoice.AUTO:
            try:
                return ScriptChoice(script)
            except UsageError as error:
                raise UsageError(f"weights: {error}; auto:all is all tokens") from None
    if isinstance(value, WeightChoice | ScriptChoice):
        return value
    return fusion_weights(value)


def rule(value: RuleChoice | str) -> RuleChoice:
    """A name, and a role after a colon where the rule takes one, as in ``single:large_ins``.

    Raises:
        UsageError: no such rule, or a role that it does not take.
    """
    if isinstance(value, RuleChoice):
        return value
    if not isinstance(value, str):
        raise UsageError(f"rule: {value!r} is not one of {RULE_NAMES}")
    name, colon, of = value.strip().partition(":")
    return RuleChoice(name, role(of) if colon else None)


def plausibility(value: Plausibility | str | tuple[Role | str, float]) -> Plausibility:
    """``"small_cpt:0.1"`` or ``("small_cpt", 0.1)``.

    Raises:
        UsageError: not of that form.
    """
    if isinstance(value, Plausibility):
        return value
    parts = value.split(":") if isinstance(value, str) else value
    try:
        of, alpha = parts
    except (TypeError, ValueError):
        raise UsageError(
            f"plausibility: {value!r} is not ROLE:ALPHA, as in small_cpt:0.1"
        ) from None
    return Plausibility(role(of), _finite(alpha, "plausibility"))


def draft(value: Draft | str | int) -> Draft:
    """``"auto"``, ``"off"`` or a number of tokens.

    Raises:
        UsageError: it is none of them, or out of range.
    """
    if isinstance(value, Draft):
        return value
    if value in ("auto", "off"):
        return Draft(None if value == "auto" else 0)
    try:
        n_tokens = int(value)
    except (TypeError, ValueError):
        raise UsageError(f"draft: {value!r} is not auto, off or a number of tokens") from None
    return Draft(n_tokens)


def stop(value: str | Iterable[str]) -> tuple[str, ...]:
    """One stop string, or several.

    Raises:
        UsageError: one is empty, or no text.
    """
    if isinstance(value, str):
        value = (value,)
    try:
        found = tuple(value)
    except TypeError:
        raise UsageError(f"stop: {value!r} is neither a text nor a list of texts") from None
    for one in found:
        if not isinstance(one, str):
            raise UsageError(f"stop: {one!r} is not a text")
        if not one:
            raise UsageError("a stop string is empty: it would stop at once")
    return found


def gpu_layers(value: int | str | Sequence[str] | Mapping[Role, int]) -> dict[Role, int]:
    """``N`` for all roles, ``ROLE=N`` for one, or a list of such; later ones win.

    Raises:
        UsageError: not of that form.
    """
    if isinstance(value, Mapping):
        return {role(of): _layers(n) for of, n in value.items()}
    found: dict[Role, int] = {}
    for text in [str(value)] if isinstance(value, (int, str)) else value:
        name, equals, number = str(text).rpartition("=")
        found.update(dict.fromkeys([role(name)] if equals else Role, _layers(number, text)))
    return found


def _layers(number: object, text: object = None) -> int:
    try:
        count = int(str(number))
    except ValueError:
        raise UsageError(f"gpu_layers: {text or number!r} is not N or ROLE=N") from None
    if not -1 <= count < 2**31:
        raise UsageError(f"gpu_layers is {count}: -1 is all layers, 0 is none")
    return count


NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def normalizer(name: str) -> str:
    """One of Unicode's normal forms, or "" for none.

    Raises:
        UsageError: it is none of them.
    """
    if name and name not in NORMAL_FORMS:
        raise UsageError(f"normalizer is {name[:40]!r}: it must be {', '.join(NORMAL_FORMS)} or ''")
    return name


def endpoint(value: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        UsageError: not of that form.
    """
    host, colon, port = value.strip().rpartition(":")
    is_v6 = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_v6 else host
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not colon or not host or (":" in host) != is_v6 or not 0 < number < 65536:
        raise UsageError(f"rpc: {value[:80]!r} is not HOST:PORT, as in 192.168.1.7:50052")
    return host, number


def rpc(value: str | Sequence[str] | Mapping[Role, Sequence[str]]) -> dict[Role, tuple[str, ...]]:
    """``HOST:PORT,HOST:PORT`` for all roles, ``ROLE=HOST:PORT`` for one, or a list of such; later
    ones win.

    Raises:
        UsageError: not of that form, or a server is named twice for a role.
    """
    if isinstance(value, Mapping):
        return {role(of): _servers(servers) for of, servers in value.items()}
    found: dict[Role, tuple[str, ...]] = {}
    for text in [value] if isinstance(value, str) else value:
        name, equals, servers = text.rpartition("=")
        found.update(dict.fromkeys([role(name)] if equals else Role, _servers(servers.split(","))))
    return found


def _servers(value: Sequence[str]) -> tuple[str, ...]:
    servers = tuple(one.strip() for one in ([value] if isinstance(value, str) else value))
    for one in servers:
        endpoint(one)
    if len(set(servers)) < len(servers) or not 0 < len(servers) <= _MAX_SERVERS:
        raise UsageError(f"rpc: {', '.join(servers)}: name 1 to {_MAX_SERVERS} servers, each once")
    return servers


def rpc_split(
    value: str | Iterable[float], rpc: Mapping[Role, tuple[str, ...]]
) -> tuple[float, ...]:
    """``"2,1"`` or ``(2, 1)``: the share of each server in a model's layers.

    Raises:
        UsageError: no numbers, or not as many as there are servers.
    """
    parts = value.split(",") if isinstance(value, str) else value
    shares = tuple(_finite(part, "rpc_split") for part in parts)
    if any(share < 0 for share in shares) or sum(shares) <= 0:
        raise UsageError(f"rpc_split: {value!r} are no shares, as in 2,1")
    if not rpc:
        raise UsageError("rpc_split is for several servers: name them with rpc")
    for of, servers in rpc.items():
        if len(servers) != len(shares):
            raise UsageError(
                f"rpc_split: {len(shares)} shares for {len(servers)} servers of {of}: give one each"
            )
    return shares


def overlay(
    base: Settings, given: Settings | Mapping[str, object] | None = None, **named: object
) -> Settings:
    """Settings laid over others: fields that are named, or differ from their default, win.

    Where all fields of ``given`` are named, as by :func:`dataclasses.replace`, those that differ.

    Args:
        base: the manifest's.
        given: of the same kind, or a mapping of its fields.
        named: single fields; None where nothing is said.

    Raises:
        UsageError: an unknown field, or a value of a wrong type or range.
    """
    kind = type(base)
    defaults = {f.name: getattr(kind(), f.name) for f in fields(kind)}
    over: dict[str, Any] = {}
    if isinstance(given, kind):
        said: frozenset[str] = getattr(given, "named", frozenset())
        said = said if len(said) < len(defaults) else frozenset()
        over = {n: v for n in defaults if (v := getattr(given, n)) != defaults[n] or n in said}
    elif isinstance(given, Mapping):
        over = {str(name): value for name, value in given.items()}
    elif given is not None:
        raise UsageError(f"{given!r} is neither {kind.__name__} nor a mapping of its fields")
    over.update({name: value for name, value in named.items() if value is not None})
    unknown = [name for name in over if name not in defaults]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no setting: {', '.join(defaults)}")
    try:
        return replace(base, **over)
    except TypeError:
        raise UsageError(f"a setting is of a wrong type: {over}") from None


def _finite(value: object, what: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        shown = value.strip() if isinstance(value, str) else value
        raise UsageError(f"{what}: {shown!r} is not a number")
    return number
