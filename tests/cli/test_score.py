"""score and fit: what they print, and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from trimix_edge import TriMix, values
from trimix_edge.trios.manifest import TrioManifest

Run = Callable[..., Any]
TEXT = " save the file and open the window རྫོང་ཁ"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text(" save\t the file\n open\t the window\n", encoding="utf-8")
    return path


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A trio whose manifest may be changed, and has comments."""
    folder = tmp_path / "own"
    shutil.copytree(tiny, folder)
    manifest = (folder / "trio.toml").read_text(encoding="utf-8")
    manifest = manifest.replace("weights = [0.5, 0.8]", "weights = [0.5, 0.8] # རྫོང་ཁ")
    (folder / "trio.toml").write_text(manifest, encoding="utf-8")
    return folder


def printed(run: Run, *arguments: str | Path, stdin: bytes = b"") -> dict[str, Any]:
    code, out, err = run(*arguments, "--json", stdin=stdin)
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_score_prints_what_the_library_scores(run: Run, tiny: Path, text: Path) -> None:
    found = printed(run, "score", tiny, text)
    with TriMix.load(tiny) as trimix:
        score = trimix.score(TEXT)
    assert found["token_ids"] == score.token_ids
    assert found["fused"]["logprobs"] == pytest.approx(score.fused.logprobs.tolist(), abs=1e-6)
    assert found["models"].keys() == {"large_ins", "small_cpt", "small_base"}
    assert found["weights"]["large_ins"] == 0.5
    code, out, _ = run("score", tiny, text)
    assert code == 0
    assert f"{score.fused.perplexity:.3f}" in out


def test_score_reads_a_pipe_and_a_condition(run: Run, tiny: Path, text: Path) -> None:
    piped = printed(run, "score", tiny, "-", "--condition", " the", stdin=TEXT.encode())
    condition = text.with_name("condition")
    condition.write_text(" the")
    filed = printed(run, "score", tiny, text, "--condition-file", condition)
    assert piped["fused"] == filed["fused"]
    assert len(piped["token_ids"]) == len(printed(run, "score", tiny, text)["token_ids"]) + 1


def test_a_window_and_its_stride_are_told(run: Run, tiny: Path, text: Path) -> None:
    code, out, _ = run("score", tiny, text, "--ctx", "8", "--stride", "3")
    assert code == 0
    assert "a window of 8 tokens, moved by 3" in out


@pytest.mark.parametrize("rule", ["proxy", "average", "saf", "saf:small_cpt", "single:small_base"])
def test_every_rule_generates_and_scores_what_the_library_does(
    run: Run, tiny: Path, text: Path, rule: str
) -> None:
    found = printed(run, "generate", tiny, TEXT, "--rule", rule)
    with TriMix.load(tiny, rule=values.rule(rule)) as trimix:
        assert found["token_ids"] == trimix.generate(TEXT).token_ids
        fused = trimix.score(TEXT).fused.logprobs.tolist()
    scored = printed(run, "score", tiny, text, "--rule", rule)
    assert scored["fused"]["logprobs"] == pytest.approx(fused, abs=1e-6)
    assert (found["weights"] is None) == rule.startswith("saf")


@pytest.mark.parametrize("word", ["auto", "entropy"])
def test_a_manifest_may_ask_for_weights_by_prompt(run: Run, own: Path, word: str) -> None:
    given = printed(run, "generate", own, TEXT, "--weights", word)
    manifest = own / "trio.toml"
    changed = manifest.read_text(encoding="utf-8").replace("[0.5, 0.8]", f'"{word}"')
    manifest.write_text(changed, encoding="utf-8")
    found = printed(run, "generate", own, TEXT)
    assert found["token_ids"] == given["token_ids"]
    assert found["weights"] == given["weights"]
    grid = {0.1, 0.3, 0.5, 0.7, 0.9, 1.0}
    assert found["weights"]["large_ins"] in grid
    assert found["weights"]["small_cpt"] in grid
    assert run("chat", own, stdin=b"save\n")[0] == 0


def test_auto_reads_the_script_that_the_manifest_names(run: Run, own: Path) -> None:
    both = " save the file " + TEXT
    asked = printed(run, "generate", own, both, "--weights", "auto:Tibt")
    papers = printed(run, "generate", own, both, "--weights", "auto")
    assert (asked["chosen_by"], papers["chosen_by"]) == ("auto:Tibt", "auto:all")
    manifest = own / "trio.toml"
    manifest.write_text('script = "Tibt"\n' + manifest.read_text(encoding="utf-8"), "utf-8")
    found = printed(run, "generate", own, both, "--weights", "auto")
    same = ("weights", "chosen_by", "token_ids")
    assert [found[key] for key in same] == [asked[key] for key in same]
    again = printed(run, "generate", own, both, "--weights", "auto:all")
    assert [again[key] for key in same] == [papers[key] for key in same]
    assert printed(run, "generate", own, both)["chosen_by"] is None


def test_a_prompt_without_the_script_is_told_of_once(run: Run, tiny: Path, text: Path) -> None:
    code, out, err = run("generate", tiny, " save\n the", "--lines", "--weights", "auto:Beng")
    assert (code, err.count("\n")) == (0, 1)
    assert "no text in the script Beng" in err
    assert len(out.splitlines()) == 2
    code, out, err = run("score", tiny, text, "--condition", " the", "--weights", "auto:Beng")
    assert "chosen by auto:all" in out
    assert "no text in the script Beng" in err


def test_two_models_choose_among_pairs_that_leave_nothing_over(run: Run, tiny: Path) -> None:
    found = printed(
        run, "generate", TEXT, "--weights", "auto", "-n", "2",
        "--large-ins", tiny / "large_ins.gguf", "--small-cpt", tiny / "small_cpt.gguf",
    )  # fmt: skip
    assert found["weights"]["small_base"] == pytest.approx(0, abs=1e-9)


def test_explain_in_a_pipe_prints_each_piece_with_the_shares_of_the_models(
    run: Run, tiny: Path
) -> None:
    plain = run("generate", tiny, TEXT)
    code, out, err = run("generate", tiny, TEXT, "--explain")
    *lines, last = out.split("\n")[:-1]
    pieces = [line.split("\t") for line in lines]
    assert (code, "".join(json.loads(text) for text, *_ in pieces)) == (0, plain.out[:-1])
    assert last == ""
    roles = ("large_ins", "small_cpt", "small_base")
    totals = dict.fromkeys(roles, 0.0)
    for _, told, *mean in pieces:
        shares = {role: float(part) for role, part in map(str.split, told.split("  "))}
        assert tuple(shares) == roles
        magnitude = sum(map(abs, shares.values()))
        n_tokens = int(mean[0].split()[2]) if mean else 1
        assert magnitude <= 1.02 if mean else magnitude == pytest.approx(1, abs=0.02)
        totals = {role: totals[role] + n_tokens * shares[role] for role in roles}
    told_by_json = printed(run, "generate", tiny, TEXT, "--explain")["shares"]
    for role in roles:
        expected = sum(token[role] for token in told_by_json)
        assert totals[role] == pytest.approx(expected, abs=0.02 * len(told_by_json))
    assert err.startswith("share of each model in the text")
    assert all(role in err for role in roles)
    found = printed(run, "generate", tiny, TEXT, "--explain")
    assert len(found["shares"]) == len(found["token_ids"])


def test_fit_tells_newton_and_the_grid(run: Run, tiny: Path, text: Path, pairs: Path) -> None:
    found = printed(run, "fit", tiny, "--text", text, "--pairs", pairs)
    assert len(found["grid"]) == 36
    assert found["newton"]["nll"] <= found["grid_best"]["nll"] + 1e-4
    assert found["weights"] == found["newton"]["weights"]
    grid = printed(run, "fit", tiny, "--text", text, "--method", "grid")
    assert grid["weights"] == grid["grid_best"]["weights"]
    code, out, _ = run("fit", tiny, "--text", text)
    assert code == 0
    assert "gain on the present weights" in out
    assert "down: the weight of large_ins, across: the weight of small_cpt" in out


def test_save_changes_the_weights_and_nothing_else(run: Run, own: Path, text: Path) -> None:
    manifest = own / "trio.toml"
    before = manifest.read_text(encoding="utf-8")
    weights = printed(run, "fit", own, "--text", text, "--save")["weights"]
    pair = f"[{round(weights['large_ins'], 4)!r}, {round(weights['small_cpt'], 4)!r}]"
    kept, _, source = manifest.read_text(encoding="utf-8").partition("\n[fusion.source]\n")
    assert kept == before.replace("[0.5, 0.8]", pair)
    assert "method = " in source
    assert sorted(path.name for path in own.iterdir() if "part" in path.name) == []


def test_fit_chooses_the_host_of_saf(run: Run, tiny: Path, text: Path) -> None:
    found = printed(run, "fit", tiny, "--text", text, "--rule", "saf")
    host = min(found["nll"], key=found["nll"].get)
    assert found["rule"] == f"saf:{host}"


def test_a_picture_needs_matplotlib(
    run: Run, tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "surface.png"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("fit", tiny, "--text", text, "--plot", picture)
    assert (code, out) == (2, "")
    assert "--plot needs matplotlib" in err
    assert not picture.exists()


def test_a_picture_is_drawn(run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "surface.png"
    assert run("fit", tiny, "--text", text, "--plot", picture)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


TEXT_CASES = [
    ("score {trio} {one}", "the text has 1 tokens: at least two", 1),
    ("score {trio} {empty}", "the text has 0 tokens", 1),
    ("score {trio} {latin1}", "is not UTF-8: byte 3", 1),
    ("score {trio} {missing}", "No such file", 1),
    ("score", "no text", 2),
    ("score a b c", "too many arguments", 2),
    ("score {trio} {text} --stride 0", "stride is 0", 2),
    (
        "score {trio} {text} --stride 257",
        "stride is 257, it must be from 1 to the context's 256",
        2,
    ),
    ("score {trio} {text} --weights entropy", "give a condition", 2),
    ("score {trio} {text} --condition a --condition-file b", "not both", 2),
    ("score {trio} {text} --rule ppl", "rule: 'ppl' is not one of", 2),
    ("score {trio} {text} --weights best", "neither auto nor entropy", 2),
    ("generate {trio} hi --weights auto:Tibetan", "script 'Tibetan' is no four-letter code", 2),
    ("generate {trio} hi --rule saf --weights 1,0", "give no weights beside it", 2),
    ("generate {trio} hi --rule saf:small_base", "the host of saf", 2),
    ("generate {trio} hi --rule single:tiny", "no role is called 'tiny'", 2),
    ("generate hi --weights auto --large-ins {trio}/large_ins.gguf", "small_cpt has no file", 1),
    ("chat {trio} --rule nonsense", "is not one of", 2),
    ("fit {trio}", "nothing to fit to", 2),
    ("fit {trio} --text {text} --method guess", "newton or grid", 2),
    ("fit {trio} --text {text} --rule proxy", "trimix or saf", 2),
    ("fit {trio} --text {one}", "fewer than two tokens", 1),
    ("fit {trio} --text {latin1}", "is not UTF-8", 1),
    ("fit {trio} --pairs {text}", "line 1 has 1 columns", 1),
    ("fit {trio} --pairs {empty}", "no pairs", 1),
    ("fit --text {text} --save --large-ins {trio}/large_ins.gguf", "there is no manifest", 1),
    ("fit {trio} --text {text} --save --rule saf", "only trimix's weights", 1),
    ("fit dzongkha --text {text} --save --method grid", "part of the installation", 1),
]


@pytest.mark.parametrize(("arguments", "told", "code"), TEXT_CASES)
def test_bad_input_is_told_in_one_line(
    run: Run, tiny: Path, tmp_path: Path, text: Path, arguments: str, told: str, code: int
) -> None:
    files = {name: tmp_path / name for name in ("one", "empty", "latin1", "missing")}
    files["one"].write_text("x")
    files["empty"].touch()
    files["latin1"].write_bytes(b"caf\xe9")
    filled = arguments.format(trio=tiny, text=text, **files)
    found, out, err = run(*filled.split(" "))
    assert told in err
    assert (found, out) == (code, "")
    assert err.startswith("trimix-edge: ")
    assert err.count("\n") == 1


def test_saved_weights_say_where_they_come_from(
    run: Run, own: Path, text: Path, pairs: Path
) -> None:
    manifest = own / "trio.toml"
    for _ in range(2):  # the second time replaces what the first one wrote
        found = printed(run, "fit", own, "--text", text, "--pairs", pairs, "--save")
    assert manifest.read_text(encoding="utf-8").count("[fusion.source]") == 1
    source = TrioManifest.read(manifest).source
    assert source is not None
    assert source.method == "fit --text --pairs --method newton"
    assert source.files == (text.name, pairs.name)
    assert source.sha256 == tuple(sha256(p.read_bytes()).hexdigest() for p in (text, pairs))
    assert source.nats == f"{found['newton']['nll']:.5f}"
    assert source.n_tokens == found["n_tokens"]
    shown = run("inspect", own)
    assert shown.code == 0
    assert "fit --text --pairs" in shown.out
    assert text.name in shown.out
    assert json.loads(run("inspect", own, "--json").out)["source"]["tokens"] == found["n_tokens"]


def test_a_text_is_no_measure_of_answers_and_fit_says_so_with_figures(
    run: Run, own: Path, text: Path, pairs: Path
) -> None:
    silent = run("fit", own, "--text", text)
    assert silent.err == ""
    manifest = own / "trio.toml"
    with manifest.open("a", encoding="utf-8") as file:
        file.write("\n")
    changed = manifest.read_text(encoding="utf-8")
    manifest.write_text(
        changed.replace("[generation]", "[generation]\nchat = true"), encoding="utf-8"
    )
    assert run("fit", own, "--pairs", pairs).err == ""
    code, out, err = run("fit", own, "--text", text, "--json")
    found = json.loads(out)
    assert code == 0
    assert "answers may become worse" in err
    assert f"{found['newton']['nll']:.4f} nats" in err
    assert f"{found['present']['nll']:.4f}" in err
    assert "add --pairs to see it" in err
    err = run("fit", own, "--text", text, "--pairs", pairs, "--json").err
    told = re.search(
        r"references of the pairs: ([\d.]+) nats .* with the new weights, ([\d.]+)", err
    )
    assert told is not None
    alone = printed(run, "fit", own, "--pairs", pairs)
    assert float(told[2]) == pytest.approx(alone["present"]["nll"], abs=1e-3)
    assert float(told[1]) > alone["newton"]["nll"]
