"""Bad input of every kind: one line on standard error, exit 1, or 2 for wrong usage."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from gguf import GGUFWriter
from tiny_models import SMALL, edit_gguf, random_tensors, tokenizer, write_gguf

from trimix_edge.cli import app

Run = Callable[..., tuple[int, str, str]]


class Case(NamedTuple):
    """Arguments, in which ``@`` is the folder of bad files, and what is told."""

    arguments: str
    told: str
    code: int = 1
    stdin: bytes = b""


ONE = "generate hi --weights 1,0 --large-ins "
TRIO = "generate @/good hi "

FILES = {
    "missing": Case(ONE + "@/missing.gguf", r"missing\.gguf: no such file"),
    "empty": Case(ONE + "@/empty.gguf", r"empty\.gguf is empty"),
    "not_gguf": Case(ONE + "@/text.gguf", r"not a GGUF file: it begins with b'once'"),
    "truncated": Case(ONE + "@/truncated.gguf", r"truncated\.gguf is truncated: .* ends at byte"),
    "cut_in_the_header": Case(ONE + "@/cut.gguf", r"cut\.gguf is damaged: it ends inside"),
    "no_vocabulary": Case(ONE + "@/no_vocabulary.gguf", "has no vocabulary"),
    "embedding_model": Case(ONE + "@/embedding.gguf", "is an embedding model"),
    "not_causal": Case(ONE + "@/not_causal.gguf", "is an embedding model"),
    "no_weights": Case(ONE + "@/no_weights.gguf", "could not be loaded: .*token_embd"),
    "nonsense_architecture": Case(ONE + "@/architecture.gguf", "unknown model architecture"),
    "damaged_numbers": Case(ONE + "@/no_layers.gguf", "block_count is 0"),
    "directory": Case(ONE + "@/folder", "folder is a directory"),
    "pipe": Case(ONE + "@/pipe", "is not a regular file"),
    "in_a_file": Case(ONE + "@/text.gguf/x", "Not a directory|no such file"),
    "another_tokenizer": Case(TRIO + "--small-cpt @/another.gguf", r"id \d+ is 'Ġthe' in"),
    "two_of_three": Case(
        "generate hi --weights .5,.8 --large-ins @/good/large_ins.gguf "
        "--small-cpt @/good/small_cpt.gguf",
        "small_base is needed and has no file: name one with --small-base",
    ),
    "one_of_two": Case("generate hi --large-ins @/good/large_ins.gguf", "--small-cpt"),
    "gguf_as_trio": Case("generate @/good/large_ins.gguf hi", "name a GGUF file with --large-ins"),
    "unknown_trio": Case("generate klingon hi", "no trio is called 'klingon'"),
    "folder_without_manifest": Case("generate @/folder hi", r"holds no trio\.toml"),
    "missing_manifest": Case("generate @/nothing.toml hi", "no trio is called"),
}
MANIFESTS = {
    "unknown_key": (
        "[fusion]\nweigths = [1, 1]",
        "unknown key fusion.weigths; did you mean weights",
    ),
    "unknown_table": ("[modles]", "unknown key modles; did you mean models"),
    "wrong_type": ("[generation]\nmax_tokens = 'many'", "max_tokens must be a whole number"),
    "weights_of_words": ("[fusion]\nweights = ['a', 'b']", "must be .large_ins, small_cpt., two"),
    "one_weight": ("[fusion]\nweights = [1.0]", "two numbers"),
    "infinite_weight": ("[fusion]\nweights = [inf, 0]", "weights must be"),
    "out_of_range": ("[sampling]\ntop_p = 7", "top_p is 7"),
    "not_toml": ("weights: [1, 1]", "is not TOML"),
    "not_utf8": ("name = '\udcff'", "is not UTF-8"),
    "no_models": ("name = 'x'", "large_ins is needed and has no file"),
    "missing_model": (
        "[models]\nlarge_ins = 'gone.gguf'\nsmall_cpt='x'",
        "gone.gguf: no such file",
    ),
    "zero_byte_in_a_name": ('[models]\nlarge_ins = "a\\u0000b"\nsmall_cpt="x"', "name of a file"),
    "escape_sequence": ('[models]\nlarge_ins = "\\u001b[2J"\nsmall_cpt="x"', "no such file"),
}
PROMPTS = {
    "empty": Case("generate @/good EMPTY", "prompt is empty"),
    "nothing_on_stdin": Case("generate @/good -", "prompt is empty"),
    "empty_file": Case("generate @/good --file @/empty.gguf", "prompt is empty"),
    "missing_file": Case("generate @/good --file @/missing", "prompt file .*: No such file"),
    "directory_as_file": Case("generate @/good --file @/folder", "Is a directory"),
    "too_long": Case("generate @/good --file @/long.txt", "has 300 tokens, the context holds 256"),
    "too_long_for_ctx": Case("generate @/good --file @/long.txt --ctx 100", "300 tokens.* 100 "),
    "stdin_not_utf8": Case(
        "generate @/good -", "standard input is not UTF-8: byte 2 is 0xff", stdin=b"hi\xff"
    ),
    "file_not_utf8": Case("generate @/good --file @/latin1.txt", "not UTF-8: byte 3"),
    "argument_not_utf8": Case("generate @/good hi\udcff", "not valid Unicode"),
    "chat_not_utf8": Case("chat @/good", "standard input is not UTF-8", stdin=b"\xff\n"),
    "no_template": Case(
        "generate hi --chat --weights 1,0 --large-ins @/no_template.gguf", "has no chat template"
    ),
    "broken_template": Case(
        "generate hi --chat --weights 1,0 --large-ins @/broken_template.gguf", "template fails"
    ),
    "refusing_template": Case(
        "generate hi --chat --weights 1,0 --large-ins @/refusing_template.gguf", "refuses .*: never"
    ),
    "context_beyond_memory": Case(TRIO + "--ctx 2000000000", "2000000000 tokens needs .* GB"),
    "bad_grammar": Case(TRIO + "--grammar @/text.gguf", "^trimix-edge: grammar: "),
    "empty_grammar": Case(TRIO + "--grammar @/empty.gguf", "grammar: it is empty"),
    "missing_grammar": Case(TRIO + "--grammar @/missing", "grammar .*: No such file"),
    "grammar_not_utf8": Case(TRIO + "--grammar @/latin1.txt", "grammar .* is not UTF-8"),
}
USAGE = {
    "no_prompt": Case("generate", "no prompt", 2),
    "too_many_arguments": Case("generate a b c", "quote the prompt", 2),
    "file_and_prompt": Case("generate @/good hi --file @/long.txt", "too many arguments", 2),
    "unknown_option": Case(TRIO + "--wieghts 1,0", "No such option", 2),
    "unknown_verb": Case("translate hi", "No such command", 2),
    "option_without_value": Case(TRIO + "--weights", "requires an argument", 2),
    "seed_not_a_number": Case(TRIO + "--seed x", "valid integer", 2),
    "weights_of_words": Case(TRIO + "--weights a,b", "'a' is not a number", 2),
    "one_weight": Case(TRIO + "--weights 1", "LARGE_INS,SMALL_CPT", 2),
    "weights_not_one": Case(TRIO + "--weights 1,1,1", "adds up to 3", 2),
    "nan_weight": Case(TRIO + "--weights nan,1", "'nan' is not a number", 2),
    "mask_without_role": Case(TRIO + "--plausibility 0.1", "ROLE:ALPHA", 2),
    "mask_of_no_role": Case(TRIO + "--plausibility tiny:0.1", "no role is called 'tiny'", 2),
    "mask_out_of_range": Case(TRIO + "--plausibility small_cpt:2", "alpha is 2", 2),
    "top_p": Case(TRIO + "--top-p 1.5", "top-p is 1.5, it must be from 0 to 1", 2),
    "min_p": Case(TRIO + "--min-p -1", "min-p is -1", 2),
    "top_k": Case(TRIO + "--top-k -1", "top-k is -1", 2),
    "temperature": Case(TRIO + "--temperature -1", "temperature is -1", 2),
    "nan_temperature": Case(TRIO + "--temp nan", "temperature is nan", 2),
    "repeat_penalty": Case(TRIO + "--repeat-penalty 0", "repeat-penalty is 0", 2),
    "seed": Case(TRIO + "--seed -1", "seed is -1", 2),
    "mirostat": Case(TRIO + "--mirostat 3", "mirostat is 3", 2),
    "max_tokens": Case(TRIO + "--max-tokens -2", "max-tokens is -2", 2),
    "stop": Case(TRIO + "--stop=", "stop string is empty", 2),
    "ctx": Case(TRIO + "--ctx -1", "ctx is -1", 2),
    "ctx_by_its_other_name": Case(TRIO + "--ctx-size -1", "ctx is -1", 2),
    "ctx_of_presets": Case("presets --ctx -4", "ctx is -4", 2),
    "mirostat_tau": Case(TRIO + "--mirostat-ent 200", "mirostat-tau is 200", 2),
    "wrong_option": Case(TRIO + "--foo", "see trimix-edge generate --help", 2),
    "trio_and_no_prompt": Case("generate @/good", "good is a trio; give it something", 2),
    "fit_an_embedded_trio": Case("fit --text @/long.txt --save", "copy its folder"),
    "fit_other_models": Case(
        "fit @/good --text @/long.txt --save --small-cpt @/good/small_cpt.gguf",
        "not be those of the trio's own models",
    ),
    "keep_in_a_file": Case(
        "bench --synthetic qwen2.5-1.5b+3b:Q4_0 --keep @/long.txt", r"long\.txt: File exists"
    ),
    "prompt_cache_in_a_file": Case(TRIO + "-n 1 --prompt-cache @/long.txt/x", "long.txt/x"),
    "batch": Case(TRIO + "--batch -1", "batch is -1", 2),
    "threads": Case(TRIO + "--threads 5000", "threads is 5000", 2),
    "kv_type": Case(TRIO + "--kv-type f8", "kv-type 'f8' is not one of f32", 2),
    "gpu_layers": Case(TRIO + "--gpu-layers all", "not N or ROLE=N", 2),
    "gpu_layers_of_no_role": Case(TRIO + "--gpu-layers tiny=1", "no role is called 'tiny'", 2),
    "greedy_and_sampling": Case(TRIO + "--greedy --temp 0.5", "leave --temperature away", 2),
    "greedy_and_grammar": Case(TRIO + "--greedy --grammar @/long.txt", "leave --grammar away", 2),
}
CASES = {
    **{f"file-{name}": case for name, case in FILES.items()},
    **{f"prompt-{name}": case for name, case in PROMPTS.items()},
    **{f"usage-{name}": case for name, case in USAGE.items()},
    **{
        f"manifest-{name}": Case(f"generate @/{name}.toml hi", told)
        for name, (_, told) in MANIFESTS.items()
    },
}


@pytest.fixture(scope="module")
def bad(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of bad files, and a good trio among them."""
    folder = tmp_path_factory.mktemp("bad")
    good = folder / "good"
    shutil.copytree(tiny, good)
    model = good / "large_ins.gguf"
    whole = model.read_bytes()
    (folder / "empty.gguf").touch()
    (folder / "text.gguf").write_text("once upon a time")
    (folder / "truncated.gguf").write_bytes(whole[:-5000])
    (folder / "cut.gguf").write_bytes(whole[:1000])
    (folder / "folder").mkdir()
    (folder / "long.txt").write_text(" the" * 300)
    (folder / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    os.mkfifo(folder / "pipe")
    for name, changes in {
        "embedding": {"llama.pooling_type": 1},
        "not_causal": {"llama.attention.causal": False},
        "no_layers": {"llama.block_count": 0},
        "broken_template": {"tokenizer.chat_template": "{% for"},
        "refusing_template": {"tokenizer.chat_template": "{{ raise_exception('never') }}"},
    }.items():
        edit_gguf(model, folder / f"{name}.gguf", changes)
    edit_gguf(model, folder / "no_template.gguf", {}, drop="tokenizer.chat_template")
    no_vocabulary = {"tokenizer.ggml.model": "no_vocab", "llama.vocab_size": 384}
    edit_gguf(model, folder / "no_vocabulary.gguf", no_vocabulary, drop="tokenizer.")
    edit_gguf(model, folder / "no_weights.gguf", {}, with_tensors=False)
    writer = GGUFWriter(folder / "architecture.gguf", "nonsense")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    another = tokenizer()
    vocab = another["model"]["vocab"]
    vocab["ĠTHE"] = vocab.pop("Ġthe")
    write_gguf(folder, "another", SMALL, random_tensors(SMALL, 1), another)
    for name, (text, _) in MANIFESTS.items():
        (folder / f"{name}.toml").write_bytes(text.encode(errors="surrogateescape"))
    return folder


def check(code: int, out: str, err: str, told: str, expected_code: int) -> None:
    assert re.search(told, err), err
    assert code == expected_code
    assert out == ""
    assert err.startswith("trimix-edge: ")
    assert err.endswith("\n")
    assert not re.search(r"[\x00-\x1f\x7f]", err[:-1]), "one line, and no escape sequence"


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_one_line(run: Run, bad: Path, name: str) -> None:
    case = CASES[name]
    arguments = [part.replace("@", str(bad)) for part in case.arguments.split(" ") if part]
    arguments = ["" if part == "EMPTY" else part for part in arguments]
    check(*run(*arguments, stdin=case.stdin), case.told, case.code)


def test_there_are_more_than_thirty_kinds() -> None:
    assert len({(case.told, case.code) for case in CASES.values()}) > 60


@pytest.fixture
def unreadable(tiny: Path, tmp_path: Path) -> Iterator[Path]:
    """A model that this process may not read; root may read everything, so it becomes nobody."""
    path = tmp_path / "secret.gguf"
    shutil.copy(tiny / "small_base.gguf", path)
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield path
    if is_root:
        os.seteuid(0)


def test_no_permission_is_told_in_one_line(run: Run, unreadable: Path) -> None:
    result = run("generate", "hi", "--weights", "0,0", "--small-base", unreadable)
    check(*result, r"secret\.gguf: no permission to read it", 1)


def test_no_verb_shows_the_help(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "generate" in out


@pytest.mark.parametrize("verb", [[], *([command.name] for command in app.registered_commands)])
def test_help_is_no_error_and_shows_no_type_of_python(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    code, out, err = run(*verb, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out
    assert not re.findall(r"<(?:bool|int|float|str|path|file|directory)\b|\b(?:list|tuple)\[", out)


def test_a_lack_of_memory_is_told(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("trimix_edge.trimix.TriMix.load", load)
    check(*run("generate", tiny, "hi"), "not enough memory", 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disk_under_the_output_is_told() -> None:
    program = "import trimix_edge.cli; trimix_edge.cli.main()"
    arguments = [sys.executable, "-c", program, "presets", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "trimix-edge: output: No space left on device\n"
