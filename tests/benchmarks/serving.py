"""The server under load: ``python tests/benchmarks/serving.py [REQUESTS] [AT_ONCE]``.

Answers are compared with those of single requests, a tenth of the clients leave early, a tenth send
nonsense. Then what HTTP adds to the Python API's time to the first token, and to that of each token
of 8 streams. As the client runs on the same cores, it is a bare socket in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from server.running import Running, running

from trimix_edge import Role, TriMix

PROMPTS = [
    "Save the file.", "Close the window.", "Open the folder.", "Click OK to go on.",
    "The file could not be opened.", "Choose a printer.", "Type a name for the folder.",
    "Select the text to copy.", "Do you want to keep the changes?", "Cancel",
]  # fmt: skip
PATH = "/v1/chat/completions"


def body(prompt: str, **more: Any) -> dict[str, Any]:
    # Drafts are for one sequence alone: without them both measurements do the same work.
    return {"messages": [{"role": "user", "content": prompt}], "draft": "off", **more}


async def ask(client: httpx.AsyncClient, prompt: str) -> tuple[str, int]:
    answer = (await client.post(PATH, json=body(prompt))).json()
    return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]


async def margins(client: httpx.AsyncClient, prompt: str) -> list[tuple[str, float]]:
    """Each token of an answer, and the nats between the two likeliest tokens there."""
    asked = body(prompt, logprobs=True, top_logprobs=2)
    tokens = (await client.post(PATH, json=asked)).json()["choices"][0]["logprobs"]["content"]
    return [
        (token["token"], token["top_logprobs"][0]["logprob"] - token["top_logprobs"][1]["logprob"])
        for token in tokens
    ]


def margin_where_it_differs(alone: list[tuple[str, float]], text: str) -> float:
    """At the first token that another answer does not have."""
    so_far = ""
    for token, nats in alone:
        so_far += token
        if not text.startswith(so_far):
            return nats
    return 0.0


async def leave(client: httpx.AsyncClient, prompt: str) -> int:
    """Tokens that came before the client went."""
    count = 0
    async with client.stream("POST", PATH, json=body(prompt, stream=True)) as response:
        async for line in response.aiter_lines():
            count += '"content"' in line
            if random.random() < 0.3:
                break
    return count


async def load(url: str, server: int, n: int, at_once: int) -> None:
    """``n`` requests, to the server in the process ``server``."""
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        for prompt in PROMPTS:
            await ask(client, prompt)
        begin = time.perf_counter()
        alone = {prompt: await ask(client, prompt) for prompt in PROMPTS}
        single = sum(count for _, count in alone.values()) / (time.perf_counter() - begin)
        ways = {prompt: await margins(client, prompt) for prompt in PROMPTS}
        turns = asyncio.Semaphore(at_once)
        tokens = refused = 0
        ties: list[float] = []

        async def one(i: int) -> None:
            nonlocal tokens, refused
            prompt = PROMPTS[i % len(PROMPTS)]
            async with turns:
                if i % 10 == 3:
                    tokens += await leave(client, prompt)
                elif i % 10 == 7:
                    response = await client.post(PATH, json={"messages": i})
                    refused += response.status_code == 400
                else:
                    text, count = await ask(client, prompt)
                    tokens += count
                    if text != alone[prompt][0]:
                        ties.append(margin_where_it_differs(ways[prompt], text))

        process = psutil.Process(server)
        await asyncio.gather(*(one(i) for i in range(n // 10)))
        before, tokens, begin = process.memory_info().rss, 0, time.perf_counter()
        await asyncio.gather(*(one(i) for i in range(n // 10, n)))
        rate = tokens / (time.perf_counter() - begin)
        grown = (process.memory_info().rss - before) / 2**20
    print(
        f"{n} requests, {at_once} at once: {len(ties)} answers differ from the single ones, "
        f"where the two likeliest tokens are at most {max(ties, default=0.0):.4f} nats apart; "
        f"{refused} malformed ones refused, {grown:.1f} MiB more memory"
    )
    print(f"{rate:.0f} tokens/s at once, one at a time {single:.0f}: {rate / single:.2f}x")


def first_token(client: httpx.Client) -> float:
    begin = time.perf_counter()
    with client.stream("POST", PATH, json=body(PROMPTS[4], stream=True)) as response:
        for line in response.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get(
                "content"
            ):
                return time.perf_counter() - begin
    raise AssertionError("no token came")


def first_of_library(trimix: TriMix) -> float:
    begin = time.perf_counter()
    stream = trimix.stream([{"role": "user", "content": PROMPTS[4]}], draft="off")
    for chunk in stream:
        if chunk.text:
            stream.close()
            break
    return time.perf_counter() - begin


N_TOKENS = 100
CLIENT = """
import selectors, socket, sys, time
port, n, request = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
waiting = selectors.DefaultSelector()
sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(n)]
begin = time.perf_counter()
for one in sockets:
    one.sendall(request)
    waiting.register(one, selectors.EVENT_READ)
tails = dict.fromkeys(sockets, b"")
while tails:
    for key, _ in waiting.select():
        data = key.fileobj.recv(65536)
        tails[key.fileobj] = (tails[key.fileobj] + data)[-32:]
        if not data or b"[DONE]" in tails[key.fileobj]:
            waiting.unregister(key.fileobj)
            del tails[key.fileobj]
print(time.perf_counter() - begin, time.process_time())
"""
ALWAYS = {"max_tokens": N_TOKENS, "ignore_eos": True, "cache_prompt": False, "draft": "off"}


def streams_over_http(server: Running, n: int) -> tuple[float, float]:
    """Seconds until ``n`` streams have ended, and those of the client's CPU."""
    content = json.dumps({**body(PROMPTS[4], stream=True), **ALWAYS})
    request = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n{content}"
    )
    arguments = [sys.executable, "-S", "-c", CLIENT, str(server.port), str(n), request]
    told = subprocess.run(arguments, capture_output=True, check=True, text=True).stdout
    wall, cpu = map(float, told.split())
    return wall, cpu


def streams_of_library(trimix: TriMix, n: int) -> float:
    begin = time.perf_counter()
    prompts = [[{"role": "user", "content": PROMPTS[4]}] for _ in range(n)]
    n_tokens = sum(1 for _ in trimix.batch_stream(prompts, **ALWAYS))
    assert n_tokens == n * N_TOKENS
    return time.perf_counter() - begin


def overhead(server: Running, n: int) -> None:
    streams_over_http(server, n)
    streams_of_library(server.engine, n)
    rounds = [
        (*streams_over_http(server, n), streams_of_library(server.engine, n)) for _ in range(7)
    ]
    http, client, own = (statistics.median(column) for column in zip(*rounds, strict=True))
    each = (http - own) / (n * N_TOKENS)
    print(
        f"{n} streams of {N_TOKENS} tokens: {http:.3f} s over HTTP, {own:.3f} s from Python, so "
        f"{each * 1e3:.3f} ms a token more; the client's own CPU is "
        f"{client / (n * N_TOKENS) * 1e3:.3f} ms a token (medians of 7)"
    )


def main() -> None:
    n, at_once = (int(text) for text in (*sys.argv[1:], "2000", "8")[:2])
    with running(lambda: TriMix.load("dzongkha", n_parallel=at_once, roles=tuple(Role))) as server:
        overhead(server, at_once)
        with httpx.Client(base_url=server.url) as client:
            first_token(client)
            pairs = [(first_token(client), first_of_library(server.engine)) for _ in range(30)]
        over = statistics.median(a - b for a, b in pairs)
        print(f"first token over HTTP: {over * 1e3:.1f} ms later than from Python (median of 30)")
        # The client's Python would share one lock with the server's in this process.
        told = [sys.executable, __file__, "load", server.url, os.getpid(), n, at_once]
        subprocess.run(list(map(str, told)), check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        asyncio.run(load(sys.argv[2], *map(int, sys.argv[3:])))
    else:
        main()
