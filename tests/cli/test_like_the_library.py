"""What the command line prints is what the library generates from the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trimix_edge import Message, SamplingParams, TriMix, values

Run = Callable[..., Any]
PROMPT = " save the file"
USER: Message = {"role": "user", "content": PROMPT}
SYSTEM: Message = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def trimix(tiny: Path) -> Iterator[TriMix]:
    with TriMix.load(tiny) as trimix:
        yield trimix


@pytest.fixture
def generated(run: Run) -> Callable[..., dict[str, Any]]:
    """The JSON object that ``generate --json`` prints."""

    def generated(*arguments: str | Path) -> dict[str, Any]:
        code, out, err = run("generate", "--json", *arguments)
        assert (code, err) == (0, "")
        return dict(json.loads(out))

    return generated


def test_the_streamed_text(run: Run, tiny: Path, trimix: TriMix) -> None:
    assert run("generate", tiny, PROMPT) == (0, trimix.generate(PROMPT).text + "\n", "")


def test_an_empty_text(run: Run, tiny: Path) -> None:
    assert run("generate", tiny, PROMPT, "--max-tokens", "0") == (0, "\n", "")


SAMPLED = SamplingParams(temperature=1.5, top_k=50, top_p=0.9, min_p=0.01, seed=9)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("", {}),
        ("--max-tokens 5", {"max_tokens": 5}),
        ("--greedy", {"sampling": SamplingParams()}),
        ("--plausibility small-cpt:0.1", {"plausibility": values.plausibility("small_cpt:0.1")}),
        ("--temp 1.5 --top-k 50 --top-p .9 --min-p .01 --seed 9", {"sampling": SAMPLED}),
        ("--repeat-penalty 1.8", {"sampling": SamplingParams(repeat_penalty=1.8)}),
        ("--dry-multiplier 9", {"sampling": SamplingParams(dry_multiplier=9)}),
        ("--stop e --stop i", {"stop": ["e", "i"]}),
        ("--chat", {"chat": True}),
    ],
)
def test_every_option(
    generated: Callable[..., dict[str, Any]],
    tiny: Path,
    trimix: TriMix,
    arguments: str,
    options: dict[str, Any],
) -> None:
    found = generated(tiny, PROMPT, *arguments.split())
    expected = trimix.generate(PROMPT, **options)
    assert found["prompt_token_ids"] == expected.prompt_token_ids
    assert found["token_ids"] == expected.token_ids
    assert found["text"] == expected.text
    assert found["finish_reason"] == expected.finish_reason


def test_a_system_message_makes_a_conversation(
    generated: Callable[..., dict[str, Any]], tiny: Path, trimix: TriMix
) -> None:
    found = generated(tiny, PROMPT, "--system", SYSTEM["content"])
    assert found["prompt_token_ids"] == trimix.tokenize([SYSTEM, USER])


def test_a_manifest_asks_for_the_template_and_no_chat_overrules_it(
    generated: Callable[..., dict[str, Any]], tiny: Path, trimix: TriMix, tmp_path: Path
) -> None:
    manifest = (tiny / "trio.toml").read_text(encoding="utf-8")
    manifest = manifest.replace("[generation]", "[generation]\nchat = true")
    for role in ("large_ins", "small_cpt", "small_base"):
        (tmp_path / f"{role}.gguf").symlink_to(tiny / f"{role}.gguf")
    (tmp_path / "trio.toml").write_text(manifest, encoding="utf-8")
    assert generated(tmp_path, PROMPT)["prompt_token_ids"] == trimix.tokenize([USER])
    plain = generated(tmp_path, PROMPT, "--no-chat")["prompt_token_ids"]
    assert plain == trimix.tokenize(PROMPT)


def test_three_weights_are_two_and_their_rest(
    generated: Callable[..., dict[str, Any]], tiny: Path
) -> None:
    two = generated(tiny, PROMPT, "--weights", "0.2,0.7")
    three = generated(tiny, PROMPT, "--weights", "0.2,0.7,0.1")
    assert two["token_ids"] == three["token_ids"]
    assert two["weights"] == {"large_ins": 0.2, "small_cpt": 0.7, "small_base": pytest.approx(0.1)}


def test_the_seed_that_is_told_repeats_the_output(
    generated: Callable[..., dict[str, Any]], tiny: Path
) -> None:
    first = generated(tiny, PROMPT, "--temp", "2")
    again = generated(tiny, PROMPT, "--temp", "2", "--seed", str(first["seed"]))
    assert again["token_ids"] == first["token_ids"]


def test_a_conversation(run: Run, tiny: Path, trimix: TriMix) -> None:
    turns = ("save", "open", "save")
    history: list[Message] = []
    expected = ""
    for turn in turns:
        history.append({"role": "user", "content": turn})
        answer = trimix.chat(history).text
        history.append({"role": "assistant", "content": answer})
        expected += answer + "\n"
    assert run("chat", tiny, stdin="\n".join(turns).encode()) == (0, expected, "")
    first, _, third = expected.rstrip("\n").split("\n")
    assert first != third, "the same question, and another history"
