"""A trio whose layers are on two servers gives the tokens that it gives on one machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import GREEDY_TRIO

from trimix_edge import ContextParams, Role, TriMix, values
from trimix_edge.errors import UsageError
from trimix_edge.rpc.probe import probe

PROMPT = " save the file, open the window and close the page"


def load(tiny: dict[Role, Path], **more: Any) -> TriMix:
    context = {"n_ctx": 256, "kv_type": "f32", "n_threads": 1, **more.pop("context", {})}
    named = {"weights": (0.5, 0.8), "roles": list(Role), **more}
    return TriMix.load(GREEDY_TRIO, models=tiny, context=context, **named)


@pytest.fixture(scope="session")
def here(tiny: dict[Role, Path]) -> dict[str, Any]:
    """What the trio generates and scores without servers."""
    with load(tiny) as trimix:
        return {
            "tokens": trimix.generate(PROMPT, chat=False, max_tokens=24).token_ids,
            "drafted": trimix.generate(PROMPT, chat=False, max_tokens=24, draft=4).token_ids,
            "nats": trimix.score(PROMPT).fused.nll,
        }


SPREADS = {
    "the large one on one": lambda a, b: {"rpc": f"large_ins={a}"},
    "each layer of all on both": lambda a, b: {
        "rpc": f"{a},{b}", "context": {"rpc_split": (2, 1), "rpc_output": True},
    },
    "the models on three machines": lambda a, b: {
        "rpc": [f"large_ins={a}", f"small_cpt={b}"], "context": {"gpu_layers": {Role.LARGE_INS: 1}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SPREADS)
def test_tokens_are_those_of_one_machine(
    tiny: dict[Role, Path], servers: tuple[str, str], here: dict[str, Any], name: str
) -> None:
    with load(tiny, **SPREADS[name](*servers)) as trimix:
        assert trimix.trio.worker is not None
        loaded = trimix.trio.worker.n_bytes
        assert trimix.generate(PROMPT, chat=False, max_tokens=24).token_ids == here["tokens"]
        assert trimix.trio.worker.n_bytes > loaded
        again = trimix.generate(PROMPT, chat=False, max_tokens=24, draft=4)
        assert again.token_ids == here["drafted"]
        assert trimix.score(PROMPT).fused.nll == pytest.approx(here["nats"], abs=1e-4)


def test_the_output_layer_stays_here_unless_it_is_asked_for(
    tiny: dict[Role, Path], servers: tuple[str, str]
) -> None:
    carried = {}
    for output in (False, True):
        more = {"rpc": servers[0], "context": {"rpc_output": output}}
        with load(tiny, **more) as trimix:
            worker = trimix.trio.worker
            assert worker is not None
            list(trimix.stream(PROMPT, chat=False, max_tokens=2, draft="off"))
            before = worker.n_bytes
            list(trimix.stream(PROMPT, chat=False, max_tokens=10, draft="off"))
            carried[output] = worker.n_bytes - before
    assert carried[True] > carried[False] + 7 * 384 * 4  # a row of logits a token


def test_several_generations_at_once_and_prompt_caches(
    tiny: dict[Role, Path], servers: tuple[str, str], tmp_path: Path
) -> None:
    prompts = [PROMPT, " the name of the window", " is that for it", PROMPT]
    with load(tiny, n_parallel=3) as trimix:
        expected = [g.token_ids for g in trimix.generate_all(prompts, chat=False, max_tokens=8)]
    with load(tiny, n_parallel=3, rpc=servers[0]) as trimix:
        found = trimix.generate_all(prompts, chat=False, max_tokens=8)
        assert [g.token_ids for g in found] == expected
        trimix.generate(PROMPT, chat=False, max_tokens=1)
        trimix.save_prompt_cache(tmp_path / "cache")
        trimix.generate(" other", chat=False, max_tokens=1)
        trimix.forget()
        trimix.load_prompt_cache(tmp_path / "cache")
        again = trimix.generate(PROMPT, chat=False, max_tokens=8)
        assert (again.token_ids, again.n_kept > 3) == (expected[0], True)


def test_a_closed_trio_leaves_the_servers_to_others(
    tiny: dict[Role, Path], servers: tuple[str, str]
) -> None:
    trimix = load(tiny, rpc=servers[0])
    trimix.close()
    trimix.close()
    probe(servers[0])
    with pytest.raises(UsageError, match="closed"):
        trimix.generate("x", chat=False)


def test_a_cancelled_prompt_is_forgotten(
    tiny: dict[Role, Path], servers: tuple[str, str], here: dict[str, Any]
) -> None:
    with load(tiny, rpc=servers[0]) as trimix:
        run = trimix.submit(PROMPT * 8, chat=False)
        threading.Timer(0.001, run.cancel).start()
        while not run.finished:
            trimix.step()
        assert trimix.generate(PROMPT, chat=False, max_tokens=24).token_ids == here["tokens"]


def test_the_command_line_tells_the_traffic_of_a_token(
    tiny: dict[Role, Path], servers: tuple[str, str], run: Callable[..., Any]
) -> None:
    files = [part for role, path in tiny.items() for part in (f"--{role}".replace("_", "-"), path)]
    shared = ["--greedy", "-n", "8", "--ctx", "256", "--no-chat", "--weights", "0.5,0.8", *files]
    code, out, err = run("generate", PROMPT, *shared, "--rpc", f"large-ins={servers[0]}")
    assert code == 0
    assert run("generate", PROMPT, *shared)[1] == out
    assert f"KB a token to and from {servers[0]}" in err
    code, out, err = run("generate", PROMPT, *shared, "--json", "--rpc", servers[1])
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record["rpc"]["servers"] == [servers[1]]
    assert 500 < record["rpc"]["bytes_per_token"] < 1e6


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("host", "is not HOST:PORT"),
        ("large=h:1", "no role is called 'large'"),
        ("h:1,h:1", "each once"),
        (",".join(f"h:{i}" for i in range(1, 18)), "name 1 to 16 servers"),
    ],
)
def test_servers_of_another_form(value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        values.rpc(value)


@pytest.mark.parametrize(
    ("split", "servers", "message"),
    [
        ("1,x", ["a:1,b:1"], "'x' is not a number"),
        ("1,-1", ["a:1,b:1"], "are no shares"),
        ("0,0", ["a:1,b:1"], "are no shares"),
        ("1,1", [], "name them with rpc"),
        ("1,1", ["large_ins=a:1"], "2 shares for 1 servers of large_ins"),
    ],
)
def test_shares_of_another_form(split: str, servers: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        values.rpc_split(split, values.rpc(servers))


def test_a_manifest_names_no_servers(tiny: dict[Role, Path], tmp_path: Path) -> None:
    text = '[models]\nlarge_ins = "x.gguf"\n[context]\nrpc = "evil.example.org:50052"\n'
    (tmp_path / "trio.toml").write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match="rpc"):
        TriMix.load(tmp_path)


def test_settings_are_of_the_right_type() -> None:
    with pytest.raises(UsageError, match="servers by role"):
        ContextParams(rpc="host:1")  # type: ignore[arg-type]
