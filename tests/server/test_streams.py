"""Streams: their framing, their end, and clients that leave."""

from __future__ import annotations

import json
import threading

import httpx
import pytest
from server.fake_engine import FakeEngine
from server.running import Running, running, until

from trimix_edge.server.state import Limits

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hello"}]


def head(path: str, length: int, more: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def test_events_are_framed_as_lines_of_data(quick: Running) -> None:
    response = quick.post(CHAT, {"messages": USER, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])
    bodies = [json.loads(event[6:]) for event in events[:-2]]
    assert len({body["id"] for body in bodies}) == 1
    assert "".join(b["choices"][0]["delta"].get("content", "") for b in bodies) == "HELLO"


def test_characters_of_several_tokens_are_never_broken(quick: Running) -> None:
    for text in ("བོད་ཡིག", "ئۇيغۇر", "ᠮᠣᠩᠭᠣᠯ", "🏔️"):
        body = {"messages": [{"role": "user", "content": text}], "stream": True}
        pieces = [
            event["choices"][0]["delta"].get("content", "")
            for event in quick.events(CHAT, body)[:-1]
        ]
        assert "".join(pieces) == text.upper()
        assert "\ufffd" not in "".join(pieces)


def test_a_text_with_line_breaks_stays_one_event() -> None:
    said = "a\r\n\ndata: b\u2028c"
    with running(lambda: FakeEngine(says=said)) as server:
        events = server.events(CHAT, {"messages": USER, "stream": True})
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]) == said


def test_usage_comes_last_and_without_choices(quick: Running) -> None:
    body = {"messages": USER, "stream": True, "stream_options": {"include_usage": True}, "n": 2}
    *_, last, done = quick.events(CHAT, body)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2 * 6
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_choices_of_one_stream_are_told_apart(quick: Running) -> None:
    events = quick.events(CHAT, {"messages": USER, "stream": True, "n": 3})[:-1]
    for index in range(3):
        own = [e["choices"][0] for e in events if e["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in own) == "HELLO"
        assert [choice["finish_reason"] for choice in own][-1] == "stop"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_generation(stream: bool) -> None:
    with running(lambda: FakeEngine(delay=0.01, n_ctx=10**6)) as server:
        body = json.dumps({"messages": USER, "stream": stream, "ignore_eos": True}).encode()
        raw = server.raw()
        raw.sendall(head(CHAT, len(body)) + body)
        until(lambda: bool(server.engine.submitted) and server.engine.submitted[0].place > 3)
        raw.close()
        until(lambda: server.engine.submitted[0].cancelled)
        until(lambda: server.engine.is_idle)
        assert server.post(CHAT, {"messages": USER}).status_code == 200


def test_a_client_that_leaves_during_its_prompt_stops_it() -> None:
    with running(lambda: FakeEngine(delay=0.02, n_ctx=10**6)) as server:
        body = json.dumps({"prompt": "x" * 200_000, "stream": True}).encode()
        raw = server.raw()
        raw.sendall(head("/v1/completions", len(body)) + body)
        until(lambda: server.engine.n_steps > 2)
        raw.close()
        until(lambda: server.engine.is_idle)
        assert server.engine.submitted[0].place == 0


def test_a_second_request_does_not_end_the_first() -> None:
    with running(lambda: FakeEngine(delay=0.01, n_parallel=1)) as server:
        answers: list[str] = []

        def ask(text: str) -> None:
            body = {"messages": [{"role": "user", "content": text}]}
            answers.append(server.post(CHAT, body).json()["choices"][0]["message"]["content"])

        threads = [threading.Thread(target=ask, args=(text,)) for text in ("one", "two", "three")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["ONE", "THREE", "TWO"]


def test_a_waiting_stream_is_kept_alive_by_comments() -> None:
    limits = Limits(heartbeat=0.05)
    with running(lambda: FakeEngine(delay=0.3), limits=limits) as server:
        body = {"messages": USER, "stream": True, "max_tokens": 2}
        text = server.post(CHAT, body).text
        assert ": waiting\n\n" in text
        assert text.endswith("data: [DONE]\n\n")


def test_a_full_queue_is_told_and_empties() -> None:
    with running(
        lambda: FakeEngine(delay=0.01, n_parallel=1, n_ctx=10**6), limits=Limits(waiting=1)
    ) as server:
        endless = json.dumps({"messages": USER, "stream": True, "ignore_eos": True}).encode()
        held = [server.raw() for _ in range(2)]
        for raw in held:
            raw.sendall(head(CHAT, len(endless)) + endless)
        until(lambda: len(server.engine.submitted) == 2)
        refused = server.post(CHAT, {"messages": USER})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "queue_full"
        for raw in held:
            raw.close()
        until(lambda: server.application.state.thread.n_active == 0)
        assert server.post(CHAT, {"messages": USER}).status_code == 200


def test_a_reader_that_stalls_is_let_go() -> None:
    limits = Limits(stall=0.3)
    with running(lambda: FakeEngine(n_ctx=10**8, says="x" * 4000), limits=limits) as server:
        body = json.dumps(
            {"messages": USER, "stream": True, "ignore_eos": True, "logprobs": True}
        ).encode()
        raw = server.raw()
        raw.sendall(head(CHAT, len(body)) + body)  # and never reads
        until(lambda: bool(server.engine.submitted) and server.engine.submitted[0].cancelled)
        raw.close()


def test_a_generation_that_fails_ends_its_stream_with_an_error() -> None:
    with running(lambda: FakeEngine(fails=True)) as server:
        events = server.events(CHAT, {"messages": USER, "stream": True})
        assert events[-1]["error"]["code"] == "generation_failed"
        whole = server.post(CHAT, {"messages": USER})
        assert whole.status_code == 500
        assert "large_ins" in whole.json()["error"]["message"]


def test_an_engine_that_crashes_ends_what_runs_and_is_told() -> None:
    with running(lambda: FakeEngine(crashes=True)) as server:
        broken = server.post(CHAT, {"messages": USER})
        assert broken.status_code == 500
        assert broken.json()["error"]["message"] == "the server has failed; its log says why"
        assert server.get("/health").status_code == 503


def test_health_waits_for_the_models() -> None:
    may_load = threading.Event()

    def load() -> FakeEngine:
        may_load.wait()
        return FakeEngine()

    with running(load, wait=False) as server:
        for path in ("/health", "/v1/models", "/props"):
            response = server.get(path)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "loading"
        assert server.post(CHAT, {"messages": USER}).status_code == 503
        may_load.set()
        until(lambda: server.get("/health").status_code == 200)


@pytest.mark.filterwarnings("ignore:.*no place for a system message")
def test_a_system_message_goes_into_the_first_user_turn_where_the_template_lacks_it(
    real: Running,
) -> None:
    turns = [{"role": "developer", "content": "Be brief."}, *USER]
    prompt = real.post("/apply-template", {"messages": turns}).json()["prompt"]
    assert "Be brief.\n\nhello" in prompt
    assert real.post(CHAT, {"messages": turns, "max_tokens": 2}).status_code == 200


def test_the_connection_of_a_stream_can_be_used_again(quick: Running) -> None:
    with httpx.Client(base_url=quick.url) as client:
        for _ in range(3):
            with client.stream("POST", CHAT, json={"messages": USER, "stream": True}) as response:
                assert response.read().endswith(b"data: [DONE]\n\n")
