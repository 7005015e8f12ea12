"""``trimix-edge serve`` as a process: what it says, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server.running import until

from trimix_edge.trios.manifest import embedded_trios

COMMAND = [sys.executable, "-c", "from trimix_edge.cli import main; main()", "serve"]


def refused(*arguments: str) -> str:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    return done.stderr


class Process:
    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", *arguments], stderr=subprocess.PIPE, text=True
        )
        self.said = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    @property
    def url(self) -> str:
        def ended_or_said() -> bool:
            return "/v1)" in self.said or self.process.poll() is not None

        until(ended_or_said)
        found = re.search(r"http://127\.0\.0\.1:\d+", self.said)
        assert found is not None, self.said
        return found[0]


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.process.kill()
    made.process.wait()


def test_a_signal_ends_it_within_seconds_during_a_stream_too(process: Process) -> None:
    url = process.url
    until(lambda: httpx.get(url + "/health").status_code == 200)
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 100_000,
        "temperature": 1,
    }
    with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        process.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert process.process.wait(20) == 0
    assert any("shutting_down" in line or "finish_reason" in line for line in rest)


def test_a_kill_during_a_stream_ends_the_connection(process: Process) -> None:
    until(lambda: httpx.get(process.url + "/health").status_code == 200)
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "ignore_eos": True}
    url = process.url + "/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        process.process.kill()
        killed = time.monotonic()
        # The chunk of length 0 that ends a whole answer is missing, and the client is told so.
        with pytest.raises(httpx.TransportError):
            list(lines)
    assert time.monotonic() - killed < 5
    assert process.process.wait(5) == -signal.SIGKILL


def test_a_second_signal_ends_it_at_once(process: Process) -> None:
    until(lambda: httpx.get(process.url + "/health").status_code == 200)
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "ignore_eos": True}
    with httpx.stream(
        "POST", process.url + "/v1/chat/completions", json=body, timeout=60
    ) as response:
        next(response.iter_lines())
        process.process.send_signal(signal.SIGINT)
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(5) in (0, 128 + signal.SIGINT)


def test_what_a_request_leaves_out_is_as_the_server_was_started() -> None:
    made = Process(
        *("--temperature", "0.9", "--seed", "7", "--max-tokens", "3", "--stop", "@@"),
        *("--draft", "off", "--top-k", "30"),
    )
    try:
        url = made.url + "/v1/chat/completions"
        messages = [{"role": "user", "content": "Save the file."}]

        def answer(**fields: Any) -> dict[str, Any]:
            # Alone and from an empty cache, the same settings give the same text.
            body = {"messages": messages, "ignore_eos": True, "cache_prompt": False, **fields}
            told: dict[str, Any] = httpx.post(url, json=body, timeout=60).json()
            return told

        def texts(of: dict[str, Any]) -> list[str]:
            return [choice["message"]["content"] for choice in of["choices"]]

        own = texts(answer(max_tokens=12))
        assert own == texts(answer(max_tokens=12, temperature=0.9, seed=7, top_k=30, draft="off"))
        greedy = texts(answer(max_tokens=12, temperature=0))
        assert greedy != own
        assert greedy == texts(answer(max_tokens=12, temperature=0, seed=99))
        assert len(set(texts(answer(max_tokens=12, n=3)))) > 1  # each choice has its own seed
        assert answer()["usage"]["completion_tokens"] == 3
        assert answer(seed=-1)["seed"] != answer()["seed"] == 7
        told = httpx.get(made.url + "/props").json()["default_generation_settings"]["params"]
        assert (told["temperature"], told["seed"], told["stop"]) == (0.9, 7, ["@@"])
    finally:
        made.process.kill()
        made.process.wait()


def test_a_trio_that_cannot_be_loaded_ends_it_with_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"nonsense")
    said = refused("--large-ins", str(bad), "--weights", "1,0", "--port", "0")
    assert "bad.gguf" in said


def test_wrong_options_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none\n\n")
    assert "port is 70000" in refused("--port", "70000")
    assert "parallel is 0" in refused("--parallel", "0")
    assert "holds no key" in refused("--api-key-file", str(empty))
    assert "keys-not-there" in refused("--api-key-file", str(tmp_path / "keys-not-there"))
    assert "api-key" in refused("--api-key", " ")
    assert "is no origin" in refused("--cors", "example.org/path")
    assert "timeout is" in refused("--timeout", "0")
    assert "no trio is called" in refused("nowhere")
    assert "temperature is -1" in refused("--temperature", "-1")
    assert "leave --top-k away" in refused("--greedy", "--top-k", "5")
    assert "max-tokens is 0" in refused("--max-tokens", "0")
    assert "stop string is empty" in refused("--stop", "")


def test_an_address_in_use_is_told(process: Process) -> None:
    port = process.url.rpartition(":")[2]
    assert "in use" in refused("--port", port)


def test_other_hosts_without_a_key_are_warned_of() -> None:
    made = Process("--host", "0.0.0.0")
    try:
        assert made.url
        assert "--api-key" in made.said
    finally:
        made.process.kill()
        made.process.wait()


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    text = embedded_trios()["dzongkha"].read_text(encoding="utf-8")
    for file in embedded_trios()["dzongkha"].parent.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "trio.toml").unlink()
    changed = re.sub(r'(?m)^name = ".*"', 'name = "my [tibetan] a[/b]"', text)
    (tmp_path / "trio.toml").write_text(changed, encoding="utf-8")
    made = Process(str(tmp_path))
    try:
        assert f"my [tibetan] a[/b]: {made.url}" in made.said
    finally:
        made.process.kill()
        made.process.wait()


def test_a_missing_extra_is_asked_for_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'starlette' else find(name, *a)\n"
    )
    done = subprocess.run(
        COMMAND,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "serve needs starlette" in done.stderr
    assert "[serve]" in done.stderr
