"""OpenAI's own package, on a real socket, against the embedded trio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from server.running import Running

PROMPT: list[Any] = [{"role": "user", "content": "Save the file."}]
SAVED = "ཡིག་སྣོད་འདི་སྲུངས།"


@pytest.fixture
def client(real: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=real.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=PROMPT)
    assert answer.model == "dzongkha"
    assert answer.choices[0].message.content is not None
    assert answer.choices[0].message.content.strip() == SAVED
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="any", messages=PROMPT, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == SAVED
    assert chunks[0].choices[0].delta.role == "assistant"
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_the_async_client_runs_several_at_once(real: Running) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=real.url + "/v1", api_key="none") as client:
            texts = ["Save the file.", "Close the window.", "Save the file."]
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="any", messages=[{"role": "user", "content": text}]
                    )
                    for text in texts
                )
            )
        return [a.choices[0].message.content or "" for a in answers]

    # A browser of the page's tests may have a loop of its own in this thread.
    with ThreadPoolExecutor(1) as thread:
        first, other, again = thread.submit(lambda: asyncio.run(ask())).result()
    assert first.strip() == again.strip() == SAVED
    assert other != first


def test_logprobs_come_with_bytes_and_alternatives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any", messages=PROMPT, logprobs=True, top_logprobs=1
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    data = b"".join(bytes(item.bytes or []) for item in logprobs.content)
    assert data.decode() == answer.choices[0].message.content
    for item in logprobs.content:
        assert item.logprob <= 0
        assert len(item.top_logprobs) == 1
        assert item.top_logprobs[0].logprob >= item.logprob


def test_logprobs_stream_with_their_tokens(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="any", messages=PROMPT, logprobs=True, stream=True
    )
    data = b""
    for chunk in stream:
        logprobs = chunk.choices[0].logprobs
        for item in (logprobs.content or []) if logprobs else []:
            data += bytes(item.bytes or [])
    assert data.decode().strip() == SAVED


def test_a_text_is_completed_with_the_older_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="any", prompt="English: Save the file.\nDzongkha:", max_tokens=8, logprobs=1
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens
    assert logprobs.token_logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs)
    assert answer.choices[0].text.strip() == SAVED


def test_several_choices_and_prompts_are_numbered(client: openai.OpenAI) -> None:
    prompts = ["English: Save the file.\nDzongkha:", "English: Close the window.\nDzongkha:"]
    answer = client.completions.create(
        model="any", prompt=prompts, n=2, temperature=0, max_tokens=30
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in answer.choices]
    assert texts[0] == texts[1] != texts[2] == texts[3]


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(model="any", messages=PROMPT, temperature=2, seed=seed)
        for seed in (7, 7, 8)
    ]
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_string_is_left_out(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=PROMPT, stop=["་འདི"])
    assert answer.choices[0].message.content is not None
    assert answer.choices[0].message.content.strip() == "ཡིག་སྣོད"
    assert answer.choices[0].finish_reason == "stop"


def test_max_completion_tokens_ends_an_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=PROMPT, max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def test_tools_are_refused_by_name(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="tools is not supported") as caught:
        client.chat.completions.create(model="any", messages=PROMPT, tools=[tool])
    assert caught.value.param == "tools"
    assert caught.value.code == "unsupported"


def test_a_schema_is_followed(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"done": {"type": "boolean"}, "n": {"enum": [1, 2]}},
        "required": ["done", "n"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = client.chat.completions.create(model="any", messages=PROMPT, response_format=form)
    found = json.loads(answer.choices[0].message.content or "")
    assert found.keys() == {"done", "n"}
    assert found["done"] in (True, False)
    assert found["n"] in (1, 2)


def test_a_grammar_is_followed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any", messages=PROMPT, extra_body={"grammar": 'root ::= "yes" | "no"'}
    )
    assert answer.choices[0].message.content in ("yes", "no")


def test_weights_and_rules_change_the_answer_and_are_told(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(model="any", messages=PROMPT, extra_body=body)
        for body in ({"weights": [1, 0]}, {"rule": "single:large_ins"}, {"weights": "auto:all"})
    ]
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[0] == texts[1]
    told: Any = answers[0].model_dump()
    assert told["weights"] == {"large_ins": 1.0, "small_cpt": 0.0, "small_base": 0.0}
    assert answers[1].model_dump()["rule"] == "single:large_ins"
    chosen = answers[2].model_dump()["weights"]
    assert sum(chosen.values()) == pytest.approx(1)
    by = [answer.model_dump()["chosen_by"] for answer in answers]
    assert by == [None, None, "auto:all"]


def test_explain_tells_which_model_carried_each_token(client: openai.OpenAI) -> None:
    answer: Any = client.chat.completions.create(
        model="any", messages=PROMPT, extra_body={"explain": True}
    ).model_dump()
    for item in answer["choices"][0]["logprobs"]["content"]:
        assert item["shares"].keys() == {"large_ins", "small_cpt", "small_base"}
        assert item["models"].keys() == item["shares"].keys()
        assert item["drafted"] in (True, False)


def test_an_empty_content_and_parts_are_texts(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "Save the "}, {"type": "text", "text": "file."}]
    history: Any = [
        {"role": "user", "content": None},
        {"role": "assistant", "content": None},
        {"role": "user", "content": parts},
    ]
    answer = client.chat.completions.create(model="any", messages=history)
    assert answer.choices[0].message.content
    whole = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": parts}]
    )
    assert (whole.choices[0].message.content or "").strip() == SAVED


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["dzongkha"]
    assert client.models.retrieve("dzongkha").owned_by == "trimix-edge"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
