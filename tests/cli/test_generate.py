"""generate: what reaches the terminal, and what a program gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

FIELDS = {
    "text",
    "token_ids",
    "prompt_token_ids",
    "finish_reason",
    "weights",
    "chosen_by",
    "seed",
    "n_kept",
    "tokens",
    "batched",
    "repetition",
    "draft",
    "timings",
}
TIMINGS = {
    "load_ms",
    "prompt_ms",
    "generation_ms",
    "fusion_ms",
    "sampling_ms",
    "drafting_ms",
    "models_ms",
}


def generate(run: Run, *arguments: str | Path, stdin: bytes = b"") -> dict[str, Any]:
    code, out, err = run("generate", *arguments, "--json", stdin=stdin)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_json_has_the_documented_fields(run: Run, tiny: Path) -> None:
    found = generate(run, tiny, " save the file")
    assert found.keys() == FIELDS
    assert found["timings"].keys() == TIMINGS
    assert found["timings"]["models_ms"].keys() == {"large_ins", "small_cpt", "small_base"}
    assert found["weights"] == {
        "large_ins": 0.5,
        "small_cpt": 0.8,
        "small_base": pytest.approx(-0.3),
    }
    assert len(found["token_ids"]) <= 12
    assert found["finish_reason"] in ("end", "length")


def test_the_terminal_shows_the_text_of_the_json(run: Run, tiny: Path) -> None:
    text = generate(run, tiny, " the")["text"]
    code, out, err = run("generate", tiny, " the")
    assert (code, err) == (0, "")
    assert out == f"{text}\n"


@pytest.mark.parametrize("folder", ["folder", "manifest"])
def test_a_trio_is_a_folder_or_its_manifest(run: Run, tiny: Path, folder: str) -> None:
    trio = tiny if folder == "folder" else tiny / "trio.toml"
    assert generate(run, trio, "x")["prompt_token_ids"]


def test_the_prompt_comes_from_an_argument_a_pipe_or_a_file(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    prompt = "རྫོང་ཁ the file"
    file = tmp_path / "prompt.txt"
    file.write_text(prompt, encoding="utf-8")
    given = generate(run, tiny, prompt)["token_ids"]
    assert generate(run, tiny, "-", stdin=prompt.encode())["token_ids"] == given
    assert generate(run, tiny, "--file", file)["token_ids"] == given


def test_options_override_the_manifest(run: Run, tiny: Path) -> None:
    found = generate(run, tiny, "x", "--weights", "1,0", "--max-tokens", "3")
    assert found["timings"]["models_ms"].keys() == {"large_ins"}
    assert (len(found["token_ids"]), found["weights"]["small_cpt"]) == (3, 0.0)


def test_files_make_a_trio_without_a_manifest(run: Run, tiny: Path) -> None:
    found = generate(
        run, "x", "-n", "2", "--large-ins", tiny / "large_ins.gguf",
        "--small-cpt", tiny / "small_cpt.gguf",
    )  # fmt: skip
    assert found["weights"] == {"large_ins": 0.1, "small_cpt": 0.9, "small_base": 0.0}


def test_a_seed_repeats_a_sampled_generation(run: Run, tiny: Path) -> None:
    options = ["--temp", "1.5", "--top-k", "0", "--seed", "7"]
    first, second = (generate(run, tiny, "x", *options) for _ in range(2))
    assert first["token_ids"] == second["token_ids"]
    assert first["seed"] == 7
    others = {tuple(generate(run, tiny, "x", *options[:-1], str(s))["token_ids"]) for s in range(4)}
    assert len(others) > 1


def test_greedy_is_the_manifest_without_samplers(run: Run, tiny: Path) -> None:
    plain = generate(run, tiny, "x")["token_ids"]
    assert generate(run, tiny, "x", "--greedy")["token_ids"] == plain


def test_a_grammar_is_obeyed(run: Run, tiny: Path, tmp_path: Path) -> None:
    grammar = tmp_path / "digits.gbnf"
    grammar.write_text('root ::= [0-9] [0-9] [0-9] "!"')
    text = generate(run, tiny, "x", "--grammar", grammar)["text"]
    assert len(text) == 4
    assert text[:3].isdigit()
    assert text[3] == "!"


def test_a_stop_string_is_never_shown(run: Run, tiny: Path) -> None:
    text = generate(run, tiny, " the")["text"]
    stop = text[len(text) // 2 :][:2]
    found = generate(run, tiny, " the", "--stop", stop)
    assert found["finish_reason"] == "stop"
    assert found["text"] == text[: text.index(stop)]


def test_chat_and_system_go_through_the_template(run: Run, tiny: Path) -> None:
    plain = generate(run, tiny, "the")["prompt_token_ids"]
    chat = generate(run, tiny, "the", "--chat")["prompt_token_ids"]
    system = generate(run, tiny, "the", "--system", "file")["prompt_token_ids"]
    assert len(plain) < len(chat) < len(system)


def test_the_mask_may_change_the_output_and_needs_its_judge(run: Run, tiny: Path) -> None:
    found = generate(run, tiny, "x", "--weights", "1,0", "--plausibility", "small_cpt:1")
    assert found["timings"]["models_ms"].keys() == {"large_ins", "small_cpt"}
    alone = generate(run, tiny, "x", "--weights", "0,1")
    assert found["token_ids"] == alone["token_ids"], "an alpha of 1 leaves the judge's own choice"


def test_a_full_context_ends_the_generation(run: Run, tiny: Path) -> None:
    found = generate(run, tiny, "x", "--ctx", "8", "-n", "100")
    assert found["finish_reason"] in ("context", "end")
    assert len(found["prompt_token_ids"]) + len(found["token_ids"]) <= 8


def test_info_tells_what_the_build_can_do(run: Run) -> None:
    code, out, _ = run("info", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["llama_cpp_python"] == "0.3.36"
    assert {"gpu_offload", "devices", "physical_cores", "memory", "features"} <= found.keys()
    assert run("info")[0] == 0


def test_lines_are_answered_in_order_each_as_alone(run: Run, tmp_path: Path) -> None:
    lines = ["Save the file.", "Click OK.", "", "Open the door."]
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(lines) + "\n")
    quick = ("-t", "1", "--draft", "off", "-n", "12")
    code, out, err = run("generate", "dzongkha", "-f", file, "--lines", *quick)
    assert (code, err) == (0, "")
    alone = [run("generate", line, *quick).out.strip() if line else "" for line in lines]
    assert [" ".join(text.split()) for text in alone] == out.splitlines()


def test_only_a_newline_ends_a_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("Save\u2028the\x0cfile.\nClick\x85OK.\r\n", encoding="utf-8")
    code, out, _ = run("generate", "dzongkha", "-f", file, "--lines", "-t", "1", "-n", "4")
    assert (code, out.count("\n")) == (0, 2)


def test_a_file_of_lines_is_resumed(run: Run, tmp_path: Path) -> None:
    file, target = tmp_path / "lines.txt", tmp_path / "out.txt"
    file.write_text("Save the file.\nClick OK.\nOpen the door.\n")
    quick = ("generate", "dzongkha", "-f", file, "--lines", "-o", target, "-t", "1", "-n", "8")
    assert run(*quick)[0] == 0
    whole = target.read_text()
    assert whole.count("\n") == 3
    first = whole.splitlines(keepends=True)[0]
    target.write_text(first + "a line that was cut o")
    assert run(*quick)[0] == 0
    assert target.read_text() == whole


def test_a_trio_that_reads_lines_says_so(run: Run) -> None:
    _, _, err = run("generate", "Save the file.\nClick OK.", "-t", "1", "-n", "2")
    assert "--lines" in err
    assert err.count("\n") == 1


def test_files_without_a_manifest_are_sampled_and_a_default_limit_is_told(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimix_edge.decoding import prepare

    own = ("--large-ins", tiny / "large_ins.gguf", "--weights", "1,0", "--ctx", "256")
    sampled = [run("generate", " save", "-n", "20", "-s", str(s), *own).out for s in range(4)]
    assert len(set(sampled)) > 1
    greedy = [run("generate", " save", "-n", "20", "--temp", "0", *own).out for _ in range(2)]
    assert greedy[0] == greedy[1]
    monkeypatch.setattr(prepare, "DEFAULT_MAX_TOKENS", 5)
    code, _, err = run("generate", " save", "-s", "1", *own)
    assert (code, err) == (
        0,
        "trimix-edge: the text was ended at 5 tokens, the limit where none is given: --max-tokens "
        "-1 is as many as the context holds\n",
    )


def test_json_lines_are_the_tokens_and_the_last_one_is_the_whole(run: Run, tiny: Path) -> None:
    code, out, err = run(
        "generate", tiny, " save", "--json", "--stream", "--logprobs", "3", "--explain"
    )
    assert (code, err) == (0, "")
    *tokens, whole = map(json.loads, out.splitlines())
    assert [token["token_id"] for token in tokens] == whole["token_ids"]
    assert "".join(token["text"] for token in tokens) == whole["text"]
    assert [token["logprob"] for token in tokens] == whole["logprobs"]
    assert [token["shares"] for token in tokens] == whole["shares"]
    assert whole["top_logprobs"] == [token["top_logprobs"] for token in tokens]
    assert tokens[-1]["finish_reason"] == whole["finish_reason"]
    for token, text in zip(tokens, whole["tokens"], strict=True):
        assert bytes(token["bytes"]).decode("utf-8", "replace") == text
        best = token["top_logprobs"][0]  # greedy
        assert (best["token_id"], best["logprob"]) == (token["token_id"], token["logprob"])
        assert [len(own) for own in token["models"].values()] == [3, 3, 3]
    plain = generate(run, tiny, " save")
    assert plain["text"] == whole["text"]
    assert "logprobs" not in plain


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--stream"], "--stream is for --json"),
        (["--json", "--lines", "--stream"], "not for --lines"),
        (["--logprobs", "2"], "--logprobs is for --json"),
        (["--json", "--logprobs", "21"], "it must be a whole number from 0 to 20"),
    ],
)
def test_flags_of_json_without_it_are_refused(
    run: Run, tiny: Path, flags: list[str], told: str
) -> None:
    code, out, err = run("generate", tiny, " save", *flags)
    assert (code, out) == (2, "")
    assert told in err


def test_shots_put_the_trios_exemplars_before_the_prompt(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny, own)
    manifest = own / "trio.toml"
    manifest.write_text('exemplars = "e.tsv"\n' + manifest.read_text("utf-8"), "utf-8")
    (own / "e.tsv").write_text(" open\t འདི་\n close\t ལུ་\n", "utf-8")
    none, one, two = (
        generate(run, own, "save", "--chat", "--shots", str(n))["prompt_token_ids"]
        for n in range(3)
    )
    assert len(none) < len(one) < len(two)
    assert none == generate(run, own, "save", "--chat")["prompt_token_ids"]
    assert two[-len(none) :] == none, "the prompt itself comes last"
    for asked, told in (
        (("--shots", "3"), "holds 2 exemplars: 3 shots are too many"),
        (("--shots", "-1"), "--shots is -1: give 0 or more"),
        (("--shots", "1", "--no-chat"), "leave --no-chat away"),
    ):
        code, out, err = run("generate", own, "save", *asked)
        assert (code > 0, out, err.count("\n")) == (True, "", 1)
        assert told in err
