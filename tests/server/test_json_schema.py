"""Schemas become grammars that mean the same, or are refused."""

from __future__ import annotations

from typing import Any

import pytest

from trimix_edge.errors import GrammarError
from trimix_edge.llama.json_schema import MAX_NODES, grammar_of_schema


def rules(schema: dict[str, Any]) -> dict[str, str]:
    lines = grammar_of_schema(schema).splitlines()
    return {name: rule for name, _, rule in (line.partition(" ::= ") for line in lines)}


def test_any_object_has_a_grammar() -> None:
    assert "root" in rules({"type": "object"})


def test_what_pydantic_writes_has_a_grammar() -> None:
    schema = {
        "$defs": {"Kind": {"enum": ["a", "b"], "title": "Kind", "type": "string"}},
        "title": "Thing",
        "type": "object",
        "properties": {
            "kind": {"$ref": "#/$defs/Kind"},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["kind", "tags"],
        "additionalProperties": False,
    }
    found = rules(schema)
    assert '"\\"kind\\""' in found["kind-kv"]


def test_a_definition_and_a_property_of_the_same_name_are_told_apart() -> None:
    schema = {
        "type": "object",
        "properties": {"one": {"$ref": "#/$defs/a"}, "a": {"$ref": "#/$defs/b"}},
        "required": ["one", "a"],
        "$defs": {"a": {"const": "A"}, "b": {"const": "B"}},
    }
    text = grammar_of_schema(schema)
    assert '"\\"A\\""' in text
    assert '"\\"B\\""' in text


def test_a_recursive_schema_has_a_grammar() -> None:
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/tree"}},
        "additionalProperties": False,
    }
    assert "root" in rules({"$ref": "#/$defs/tree", "$defs": {"tree": tree}})


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "integer", "minimum": 1}, "minimum"),
        ({"type": "integer", "multipleOf": 2}, "multipleOf"),
        ({"type": "array", "items": {}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        ({"not": {"type": "string"}}, "not"),
        ({"oneOf": [{"type": "string"}], "properties": {}}, "properties"),
        ({"type": "object", "properties": {}, "required": ["x"]}, "required"),
        ({"type": "array", "items": {}, "minItems": 5, "maxItems": 2}, "greater"),
        ({"type": "string", "pattern": "a"}, "Pattern must start"),
        ({"type": "string", "pattern": "^a{9999}$"}, "repeats"),
        ({"type": "string", "pattern": "^(?=a)$"}, "Unsupported"),
        ({"type": "string", "maxLength": -1}, "maxLength"),
        ({"type": "array", "items": True}, "object"),
        ({"$ref": "https://example.org/x"}, "itself"),
        ({"enum": ["x"] * (MAX_NODES + 1)}, "parts"),
    ],
)
def test_what_a_grammar_cannot_say_is_refused(schema: dict[str, Any], word: str) -> None:
    with pytest.raises(GrammarError, match=word):
        grammar_of_schema(schema)
