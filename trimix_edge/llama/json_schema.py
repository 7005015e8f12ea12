"""A JSON schema to a GBNF grammar, by llama-cpp-python's own converter, with its gaps closed.

The converter passes over keywords that it doesn't know, and names its rules by the last part of a
reference, so that two definitions can be taken for one. Here an unknown keyword is an error, and
each definition gets a name of its own first.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from llama_cpp.llama_grammar import json_schema_to_gbnf

from trimix_edge.errors import GrammarError

MAX_DEPTH = 32
MAX_NODES = 2000
MAX_COUNT = 1000
MAX_PATTERN = 500
MAX_GRAMMAR = 200_000

_ANNOTATIONS = {
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "format",
    "deprecated", "readOnly", "writeOnly",
}  # fmt: skip
_HOMES = {"$defs", "definitions"}
_REFERENCE = {"$ref"}
_CHOICES = ({"oneOf"}, {"anyOf"}, {"const", "type"}, {"enum", "type"}, {"allOf", "type"})
_BY_TYPE: dict[str | None, set[str]] = {
    "object": {"type", "properties", "required", "additionalProperties"},
    "array": {"type", "items", "prefixItems", "minItems", "maxItems"},
    "string": {"type", "minLength", "maxLength", "pattern"},
    "integer": {"type"},
    "number": {"type"},
    "boolean": {"type"},
    "null": {"type"},
}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")


def grammar_of_schema(schema: dict[str, Any]) -> str:
    """A GBNF grammar, start symbol ``root``, of the JSON texts that a schema allows.

    Raises:
        GrammarError: the schema is wrong, too large, or says something that a grammar can't.
    """
    own = copy.deepcopy(_measured(schema))
    try:
        _name_definitions(own)
        _check(own, "schema")
        grammar = json_schema_to_gbnf(json.dumps(own))
    except GrammarError:
        raise
    except RecursionError:
        raise GrammarError("schema: it is nested too deeply") from None
    except Exception as error:  # the converter's own findings are assertions, key errors, ...
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise GrammarError(f"schema: no grammar can be made of it: {said}") from None
    if len(grammar) > MAX_GRAMMAR:
        raise GrammarError(f"schema: its grammar has {len(grammar)} characters, that is too long")
    return str(grammar)


def _measured(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, once it is known to be of a sensible size."""
    count, level = 0, [schema]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            children = value.values() if isinstance(value, dict) else value
            count += len(value)
            deeper += [child for child in children if isinstance(child, (dict, list))]
        if count > MAX_NODES:
            raise GrammarError(f"schema: it has more than {MAX_NODES} parts")
        if not deeper:
            return schema
        level = deeper
    raise GrammarError(f"schema: it is nested more than {MAX_DEPTH} levels deep")


def _name_definitions(schema: dict[str, Any]) -> None:
    """Give the target of each reference a name that no property can have taken."""
    names: dict[str, str] = {}
    targets: dict[str, Any] = {}

    def visit(node: Any) -> None:
        if isinstance(node, list):
            for child in node:
                visit(child)
        if not isinstance(node, dict):
            return
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference not in names:
                names[reference] = f"definition-{len(names)}-of-references"
                targets[names[reference]] = _resolve(schema, reference)
            node["$ref"] = f"#/$defs/{names[reference]}"
        for child in node.values():
            visit(child)

    visit(schema)
    if targets:
        for home in _HOMES:
            schema.pop(home, None)
        schema["$defs"] = targets
    for _ in names:  # the converter doesn't look beside a reference at the root
        if "$ref" in schema:
            target = targets[schema.pop("$ref").rpartition("/")[2]]
            schema |= {key: value for key, value in target.items() if key not in _HOMES}
    if "$ref" in schema:
        raise GrammarError("schema: it is a reference to itself")


def _resolve(schema: dict[str, Any], reference: str) -> Any:
    if not reference.startswith("#/"):
        raise GrammarError("schema: $ref must point into the schema itself, as in #/$defs/NAME")
    target: Any = schema
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            raise GrammarError(f"schema: nothing is at $ref {reference[:80]!r}")
        target = target[key]
    return target


def _check(node: Any, where: str) -> None:
    """Refuse what the converter would leave out without a word."""
    if not isinstance(node, dict):
        raise GrammarError(f"{where}: it must be an object")
    said = node.keys() - _ANNOTATIONS - _HOMES
    kind = node.get("type")
    if "$ref" in said:
        allowed = _REFERENCE
    elif isinstance(kind, list):
        allowed = {"type"}
    else:
        choices = [choice for choice in _CHOICES if said & (choice - {"type"})]
        allowed = choices[0] if choices else _by_type(node, kind)
    for name in sorted(said - allowed):
        beside = ", ".join(sorted(said & allowed))
        raise GrammarError(
            f"{where}: {name} can't be turned into a grammar" + (f" beside {beside}" * bool(beside))
        )
    _check_values(node, where)
    for home in _HOMES & node.keys():
        for name, child in node[home].items():
            _check(child, f"{where}.{home}.{name[:40]}")
    for name, child in (node.get("properties") or {}).items():
        _check(child, f"{where}.properties.{name[:40]}")
    for key in ("items", "additionalProperties"):
        if key in node and not (key == "additionalProperties" and isinstance(node[key], bool)):
            _check(node[key], f"{where}.{key}")
    for key in ("prefixItems", "oneOf", "anyOf", "allOf"):
        for i, child in enumerate(node.get(key) or ()):
            _check(child, f"{where}.{key}.{i}")


def _by_type(node: dict[str, Any], kind: Any) -> set[str]:
    if kind is not None and kind not in _BY_TYPE:
        raise GrammarError(f"schema: there is no type {str(kind)[:40]!r}")
    if kind is not None:
        return _BY_TYPE[kind]
    for guess in ("object", "array", "string"):
        if node.keys() & (_BY_TYPE[guess] - {"type"}):
            return _BY_TYPE[guess]
    return {"type"}


def _check_values(node: dict[str, Any], where: str) -> None:
    for key in _COUNTS:
        value = node.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise GrammarError(f"{where}: {key} must be a number from 0 to {MAX_COUNT}")
    for low, high in (("minItems", "maxItems"), ("minLength", "maxLength")):
        if high in node and node.get(low, 0) > node[high]:
            raise GrammarError(f"{where}: {low} is greater than {high}")
    if "prefixItems" in node and node.keys() & {"items", "minItems", "maxItems"}:
        raise GrammarError(f"{where}: prefixItems can't be turned into a grammar beside others")
    pattern = node.get("pattern")
    if pattern is not None:
        if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
            raise GrammarError(f"{where}: pattern must be up to {MAX_PATTERN} characters")
        if node.keys() & {"minLength", "maxLength"}:
            raise GrammarError(f"{where}: pattern can't be turned into a grammar beside a length")
        if any(int(n[:9]) > MAX_COUNT for n in re.findall(r"\d+", pattern)):
            raise GrammarError(f"{where}: pattern repeats more than {MAX_COUNT} times")
    required = node.get("required", [])
    missing = [name for name in required if name not in (node.get("properties") or {})]
    if missing:
        raise GrammarError(f"{where}: required names {str(missing[0])[:40]!r}, not in properties")
