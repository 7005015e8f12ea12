"""What is wrong with a request is told with a status, a code and the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from server.running import Running

from trimix_edge.server.schemas import CompletionRequest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": USER, **fields}).encode()


def text(**fields: Any) -> bytes:
    return json.dumps({"prompt": "hello", **fields}).encode()


def says(*parts: Any, role: str = "user", **more: Any) -> bytes:
    return chat(messages=[{"role": role, "content": list(parts) if parts else "x", **more}])


def schema(of: Any) -> bytes:
    return chat(response_format={"type": "json_schema", "json_schema": {"schema": of}})


IMAGE = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
DEEP: Any = {"type": "string"}
for _ in range(60):
    DEEP = {"type": "array", "items": DEEP}

# path, body, status, code, param
BAD: list[tuple[str, bytes, int, str | None, str | None]] = [
    (CHAT, b"", 400, "invalid_json", None),
    (CHAT, b"{", 400, "invalid_json", None),
    (CHAT, b"\xff\xfe", 400, "invalid_json", None),
    (CHAT, b"[]", 400, "invalid_json", None),
    (CHAT, b"[" * 100_000, 400, "invalid_json", None),
    (CHAT, b'{"messages": NaN}', 400, "invalid_json", None),
    (CHAT, b'{"n": ' + b"9" * 5000 + b"}", 400, "invalid_json", None),
    (CHAT, b'{"messages": [' + b"0," * 2_000_000 + b"0]}", 400, "too_many_values", None),
    (TEXT, b'{"prompt": [' + b"[0]," * 1_000_000 + b"[0]]}", 400, "too_many_values", None),
    (TEXT, text(prompt=[0.5] * 100_000), 400, "invalid_value", "prompt.0"),
    (CHAT, chat(messages=[0] * 100_000), 400, "invalid_value", "messages.0"),
    (CHAT, b"{}", 400, "missing", "messages"),
    (TEXT, b"{}", 400, "missing", "prompt"),
    (CHAT, chat(messages=[]), 400, "invalid_value", "messages"),
    (CHAT, chat(messages="hello"), 400, "invalid_value", "messages"),
    (CHAT, chat(messages=[{"content": "x"}]), 400, "missing", "messages.0.role"),
    (CHAT, says(role="tool"), 400, "invalid_value", "messages.0.role"),
    (CHAT, says(IMAGE), 400, "invalid_value", "messages.0.content.0.type"),
    (CHAT, says(name="Ann"), 400, "unsupported", "messages.0.name"),
    (CHAT, says(tool_calls=[{"id": "x"}]), 400, "invalid_value", "messages.0.tool_calls"),
    (CHAT, chat(tools=[{"type": "function"}]), 400, "unsupported", "tools"),
    (CHAT, chat(tool_choice="required"), 400, "unsupported", "tool_choice"),
    (CHAT, chat(functions=[{"name": "f"}]), 400, "unsupported", "functions"),
    (CHAT, chat(modalities=["audio"]), 400, "unsupported", "modalities"),
    (CHAT, chat(temprature=1), 400, "unsupported", "temprature"),
    (CHAT, chat(temperature="hot"), 400, "invalid_value", "temperature"),
    (CHAT, chat(temperature=True), 400, "invalid_value", "temperature"),
    (CHAT, b'{"messages": [{"role": "user"}], "top_p": 1e999}', 400, "invalid_value", "top_p"),
    (CHAT, chat(temperature=-1), 400, "invalid_value", None),
    (CHAT, chat(top_p=1.5), 400, "invalid_value", None),
    (CHAT, chat(n=0), 400, "invalid_value", "n"),
    (CHAT, chat(n=1000), 400, "invalid_value", "n"),
    (CHAT, chat(max_tokens=0), 400, None, "max_tokens"),
    (CHAT, chat(max_tokens=1, max_completion_tokens=2), 400, None, "max_completion_tokens"),
    (CHAT, chat(max_tokens=1.5), 400, "invalid_value", "max_tokens"),
    (CHAT, chat(stop=[""]), 400, "invalid_value", None),
    (CHAT, chat(stop=5), 400, "invalid_value", "stop"),
    (CHAT, chat(seed=2**40), 400, "invalid_value", "seed"),
    (CHAT, chat(logprobs=5), 400, "invalid_value", "logprobs"),
    (CHAT, chat(top_logprobs=3), 400, None, "top_logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), 400, "invalid_value", "top_logprobs"),
    (CHAT, chat(logit_bias={"dog": 1}), 400, None, "logit_bias"),
    (CHAT, chat(logit_bias={"5": 101}), 400, None, "logit_bias"),
    (CHAT, chat(logit_bias={"99999999": 1}), 400, None, "logit_bias"),
    (CHAT, chat(stream_options={"include_usage": True}), 400, None, "stream_options"),
    (CHAT, chat(response_format={"type": "xml"}), 400, "invalid_value", "response_format.type"),
    (CHAT, chat(response_format={"type": "json_schema"}), 400, None, "response_format.json_schema"),
    (CHAT, schema({"type": "cat"}), 400, "invalid_grammar", "grammar"),
    (CHAT, schema({"type": "integer", "minimum": 3}), 400, "invalid_grammar", "grammar"),
    (CHAT, schema({"$ref": "https://example.org/s"}), 400, "invalid_grammar", "grammar"),
    (CHAT, schema({"$ref": "#/nowhere"}), 400, "invalid_grammar", "grammar"),
    (CHAT, schema({"type": "string", "maxLength": 10**9}), 400, "invalid_grammar", "grammar"),
    (CHAT, schema(DEEP), 400, "invalid_grammar", "grammar"),
    (CHAT, chat(grammar="nonsense"), 400, "invalid_grammar", "grammar"),
    (CHAT, chat(grammar="root ::= x", response_format={"type": "json_object"}), 400, None,
     "grammar"),
    (CHAT, chat(chat_template_kwargs={"broken": True}), 400, "template_error", "messages"),
    (CHAT, chat(weights="heavy"), 400, "invalid_value", None),
    (CHAT, chat(weights=[0.5]), 400, "invalid_value", None),
    (CHAT, chat(weights=[1, 1, 1]), 400, "invalid_value", None),
    (CHAT, chat(weights=[1, 1], rule="proxy"), 400, "invalid_value", None),
    (CHAT, chat(rule="magic"), 400, "invalid_value", None),
    (CHAT, chat(plausibility="small_cpt:7"), 400, "invalid_value", None),
    (CHAT, says(role="user", content="\ud800"), 400, "invalid_prompt", "messages"),
    (TEXT, text(prompt=""), 400, "invalid_prompt", "prompt"),
    (TEXT, text(prompt=[-1]), 400, "invalid_value", "prompt.0"),
    (TEXT, text(prompt=[99999]), 400, "invalid_prompt", "prompt"),
    (TEXT, text(prompt="a" * 5000), 400, "context_length_exceeded", "prompt"),
    (TEXT, text(echo=True), 400, "unsupported", "echo"),
    (TEXT, text(suffix="x"), 400, "unsupported", "suffix"),
    (TEXT, text(best_of=3), 400, "unsupported", "best_of"),
    (TEXT, text(logprobs=50), 400, "invalid_value", "logprobs"),
    (TEXT, text(prompt=["a"] * 500), 400, None, "n"),
    ("/tokenize", b'{"text": "x"}', 400, "missing", "content"),
    ("/detokenize", b'{"tokens": [100000]}', 400, None, "tokens"),
    ("/apply-template", b'{"messages": []}', 400, "invalid_value", "messages"),
    ("/v1/embeddings", b"{}", 404, "not_found", None),
    ("/v1/models", b"{}", 405, "method_not_allowed", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"), BAD, ids=lambda value: str(value)[:50]
)
def test_a_bad_request_is_told(
    quick: Running, path: str, body: bytes, status: int, code: str | None, param: str | None
) -> None:
    headers = {"Content-Type": "application/json"}
    response = quick.post(path, content=body, headers=headers)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() >= {"message", "type", "code", "param"}
    assert (error["code"], error["param"]) == (code, param), error
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "\n" not in error["message"]


def test_a_prompt_that_is_too_long_is_told_with_both_counts(quick: Running) -> None:
    error = quick.post(TEXT, {"prompt": "a" * 3000}).json()["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (3000, 2048)
    assert "3000" in error["message"]
    assert "2048" in error["message"]


@pytest.mark.parametrize("field", ["prompt", "stop"])
def test_no_more_errors_are_collected_than_are_told(field: str) -> None:
    with pytest.raises(ValidationError) as found:
        CompletionRequest.model_validate({"prompt": "x", field: [0.5] * 1000})
    assert found.value.error_count() < 10  # one a branch of the union


def test_a_misspelt_field_gets_the_right_name(quick: Running) -> None:
    error = quick.post(CHAT, {"messages": USER, "temprature": 1}).json()["error"]
    assert "did you mean temperature?" in error["message"]


def test_a_template_error_has_the_templates_own_words(quick: Running) -> None:
    body = {"messages": USER, "chat_template_kwargs": {"broken": True}}
    assert "it is broken" in quick.post(CHAT, body).json()["error"]["message"]


def test_values_that_mean_what_happens_anyway_pass(quick: Running) -> None:
    neutral = {
        "tools": [], "tool_choice": "auto", "store": False, "user": "u", "metadata": {"a": "b"},
        "model": "any", "logit_bias": {}, "functions": None, "parallel_tool_calls": True,
        "presence_penalty": 0, "frequency_penalty": 0.0, "response_format": {"type": "text"},
    }  # fmt: skip
    response = quick.post(CHAT, {"messages": USER, **neutral})
    assert response.json()["choices"][0]["message"]["content"] == "HELLO"
