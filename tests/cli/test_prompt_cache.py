"""generate --prompt-cache and --draft: what a user of the command line sees of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
PROMPT = " save the file and open the window"


def generate(run: Run, *arguments: str | Path) -> dict[str, Any]:
    code, out, err = run("generate", *arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_second_run_starts_where_the_first_one_stopped(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = generate(run, tiny, PROMPT, "--prompt-cache", cache)
    second = generate(run, tiny, PROMPT, "--prompt-cache", cache)
    assert (first["n_kept"], second["n_kept"]) == (0, len(second["prompt_token_ids"]) - 1)
    assert first["token_ids"] == second["token_ids"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "damaged, or was cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "no prompt cache"),
        (lambda path: path.write_bytes(b""), "no prompt cache"),
    ],
)
def test_a_spoilt_cache_is_ignored_with_one_warning_and_replaced(
    run: Run, tiny: Path, tmp_path: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    cache = tmp_path / "cache"
    expected = generate(run, tiny, PROMPT, "--prompt-cache", cache)["token_ids"]
    spoil(cache)
    code, out, err = run("generate", tiny, PROMPT, "--prompt-cache", cache, "--json")
    assert code == 0
    assert (err.count("\n"), told in err, "ignored" in err) == (1, True, True)
    assert json.loads(out)["token_ids"] == expected
    assert generate(run, tiny, PROMPT, "--prompt-cache", cache)["n_kept"] > 0


def test_a_cache_of_other_models_is_ignored(run: Run, tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    generate(run, tiny, PROMPT, "--prompt-cache", cache)
    code, out, err = run("generate", tiny, PROMPT, "--weights", "1,0", "--prompt-cache", cache)
    assert code == 0
    assert "of other models; it is ignored" in err
    assert out == run("generate", tiny, PROMPT, "--weights", "1,0")[1]


def test_a_cache_that_cant_be_written_is_told_before_anything_is_read(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    code, out, err = run("generate", tiny, PROMPT, "--prompt-cache", tmp_path / "no" / "cache")
    assert (code, out) == (1, "")
    assert "there is no folder" in err


@pytest.mark.parametrize("draft", ["off", "auto", "1", "5"])
def test_the_length_of_the_draft_changes_no_token(run: Run, tiny: Path, draft: str) -> None:
    plain = generate(run, tiny, PROMPT, "--draft", "off")
    found = generate(run, tiny, PROMPT, "--draft", draft)
    assert found["token_ids"] == plain["token_ids"]
    assert plain["draft"] == {"rounds": 0, "drafted": 0, "accepted": 0, "from_ngrams": 0}
    assert (found["draft"]["drafted"] > 0) or draft in ("off", "auto")


@pytest.mark.parametrize(("weights", "why"), [("1,0", "no weight"), ("0,1", "alone")])
def test_a_missing_drafter_is_said_once(run: Run, tiny: Path, weights: str, why: str) -> None:
    code, _, err = run("generate", tiny, PROMPT, "--weights", weights, "--draft", "3")
    assert code == 0
    assert (err.count("\n"), why in err) == (1, True)
    assert run("generate", tiny, PROMPT, "--weights", weights).err == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--draft", "-1"], "draft is -1, it must be from 0 to 31"),
        (["--draft", "32"], "draft is 32, it must be from 0 to 31"),
        (["--draft", "many"], "'many' is not auto, off or a number"),
        (["--draft", "8", "--batch", "8"], "a batch of 8 tokens has no room"),
    ],
)
def test_a_bad_length_is_told_in_one_line(
    run: Run, tiny: Path, arguments: list[str], told: str
) -> None:
    code, out, err = run("generate", tiny, PROMPT, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_a_file_that_is_something_else_is_left_as_it_is(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("once upon a time")
    code, out, err = run("generate", tiny, PROMPT, "--prompt-cache", notes)
    assert (code, out) == (1, "")
    assert err.startswith(f"trimix-edge: {notes} is no prompt cache, and is left as it is")
    assert notes.read_text() == "once upon a time"


def test_repeatable_text_is_that_without_drafts_and_takes_no_prompt_cache(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    plain = generate(run, tiny, PROMPT, "--draft", "off")
    code, out, err = run("generate", tiny, PROMPT, "--repeatable", "--draft", "6", "--json")
    repeatable = json.loads(out)
    assert (code, repeatable["text"]) == (0, plain["text"])
    assert repeatable["draft"]["rounds"] == 0
    assert "nothing is drafted with --repeatable" in err
    cache = tmp_path / "cache"
    code, out, err = run("generate", tiny, PROMPT, "--repeatable", "--prompt-cache", cache)
    assert (code, out) == (2, "")
    assert "leave --prompt-cache away" in err
    assert not cache.exists()
