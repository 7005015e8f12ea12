"""compare-quants: what quantisation costs, measured as llama.cpp's perplexity tool does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny_models import WORDS

from trimix_edge.cli import run
from trimix_edge.errors import PromptError, UsageError
from trimix_edge.llama import LlamaModel
from trimix_edge.llama.calibration import CalibrationText
from trimix_edge.llama.chunks import ChunkRunner, chunks_of
from trimix_edge.llama.imatrix import collect_imatrix
from trimix_edge.llama.quantize import quantize
from trimix_edge.measure.compare_quants import Comparison, compare_quants, recommend
from trimix_edge.measure.quant_loss import Loss, Text, Variant, divergence, log_softmax, paired


def words(n: int, seed: int) -> str:
    return "".join(np.random.RandomState(seed).choice(WORDS, n))


TEXTS = (Text("one", words(400, 1)), Text("two", words(250, 2)))


@pytest.fixture(scope="module")
def compared(wide: Path) -> Comparison:
    return compare_quants(wide, ["q8_0", "q2_k"], TEXTS, chunk_size=64, max_chunks=5)


def test_the_figures_are_those_of_a_plain_loop(wide: Path, tmp_path: Path) -> None:
    compared = compare_quants(wide, ["Q2_K"], TEXTS[:1], chunk_size=64, max_chunks=500)
    small = tmp_path / "small.gguf"
    quantize(wide, small, "Q2_K")
    rows = {}
    for path in (wide, small):
        found: list[np.ndarray] = []
        with LlamaModel(path) as model, ChunkRunner(model, 64) as runner:
            vocab = model.vocab
            chunks = chunks_of(vocab, vocab.tokenize(TEXTS[0].text), 64)
            for chunk in chunks:
                runner.run(chunk, 0, lambda at, part, to=found: to.append(part.astype(np.float64)))
            n_bytes = sum(len(vocab.detokenize(chunk[33:])) for chunk in chunks)
        logits = np.concatenate(found).reshape(len(chunks), 64, -1)[:, 32:63]
        rows[path] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    targets = np.array([chunk[33:] for chunk in chunks])
    p, q = rows[wide], rows[small]
    for variant, logp in ((compared.base, p), (compared.variants[0], q)):
        taken = np.take_along_axis(logp, targets[..., None], -1)
        bits = -taken.sum() / math.log(2) / n_bytes
        assert variant.losses[0].bits_per_byte == pytest.approx(bits, rel=1e-5)
    loss = compared.variants[0].losses[0]
    assert loss.kl[0] == pytest.approx((np.exp(p) * (p - q)).sum(-1).mean(), rel=2e-3)
    assert loss.same_top == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
    assert compared.n_tokens == (31 * len(chunks),)


def test_fewer_bits_cost_more(compared: Comparison) -> None:
    q8, q2 = compared.variants
    assert compared.n_chunks == (5, 5)
    for i in range(2):
        assert 0 < q8.losses[i].kl[0] < q2.losses[i].kl[0]
        assert q8.losses[i].same_top > q2.losses[i].same_top
        more, low, high = q2.losses[i].change
        assert low <= more <= high
    assert q2.n_bytes < q8.n_bytes < compared.base.n_bytes
    assert all(v.tokens_per_second > 0 for v in (compared.base, q8, q2))


def test_a_type_that_needs_a_matrix_is_told_and_the_others_go_on(
    wide: Path, tmp_path: Path
) -> None:
    matrix = tmp_path / "m.gguf"
    collect_imatrix(wide, matrix, [CalibrationText("t", TEXTS[0].text)], chunk_size=64)
    compared = compare_quants(
        wide, ["IQ2_XXS"], TEXTS[:1], imatrices=[None, matrix], chunk_size=64, max_chunks=2
    )
    without, with_matrix = compared.variants
    assert (without.losses, without.notes) == ((), ("needs an importance matrix",))
    assert without.n_bytes == pytest.approx(with_matrix.n_bytes, rel=0.2)
    assert with_matrix.losses[0].kl[0] > 0
    assert with_matrix.name == "IQ2_XXS + m.gguf"


def variant(type_: str, n_bytes: int, kl: float, bits: float) -> Variant:
    loss = Loss("t", bits, (0.0, 0.0, 0.0), (kl, kl, kl), 1.0)
    return Variant(type_, None, n_bytes, n_bytes, (loss,), 1.0)


def test_recommended_is_the_closest_to_the_model_as_given_that_fits() -> None:
    base, q8 = variant("F16", 1000, 0.0, 1.0), variant("Q8_0", 500, 0.01, 1.0)
    q4, q2 = variant("Q4_0", 300, 0.1, 1.1), variant("Q2_K", 100, 0.6, 0.9)
    compared = Comparison(Path("m"), 64, (8,), (8,), base, (q8, q4, q2))
    for limit, expected in ((None, base), (999, q8), (400, q4), (299, q2), (50, None)):
        assert recommend(compared, limit) is expected


def test_the_interval_of_a_ratio_covers_its_value_and_is_a_point_without_spread() -> None:
    values, weights = np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 1.0, 2.0, 2.0])
    value, low, high = paired(values, weights, 0)
    assert value == 2.0
    assert 1.0 < low < value < high < 3.0
    assert paired(2 * weights, weights, 0) == (2.0, 2.0, 2.0)


def test_the_divergence_of_a_distribution_from_itself_is_zero() -> None:
    logits = np.random.default_rng(0).normal(0, 4, 5000).astype(np.float32)
    logits[:10] = -np.inf
    logp = log_softmax(logits)
    assert divergence(logp.astype(np.float16), logp) == pytest.approx(0, abs=1e-5)
    flat = log_softmax(np.zeros(5000, np.float32))
    expected = math.log(5000) + float((np.exp(logp[10:]) * logp[10:]).sum())
    assert divergence(logp.astype(np.float16), flat) == pytest.approx(expected, rel=1e-3)


def test_bad_questions_are_one_line(wide: Path) -> None:
    with pytest.raises(PromptError, match=r"short is too short: it has \d tokens, two chunks"):
        compare_quants(wide, ["Q8_0"], [Text("short", "the file")])
    with pytest.raises(UsageError, match="takes types"):
        compare_quants(wide, [], TEXTS)
    with pytest.raises(UsageError, match="at least 2"):
        compare_quants(wide, ["Q8_0"], TEXTS, max_chunks=1)
    with pytest.raises(UsageError, match="that the model was trained on"):
        compare_quants(wide, ["Q8_0"], TEXTS, chunk_size=1024)


def test_the_command_line_prints_one_table(
    wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = []
    for text in TEXTS:
        names += ["--text", str(tmp_path / f"{text.name}.txt")]
        (tmp_path / f"{text.name}.txt").write_text(text.text, encoding="utf-8")
    arguments = ["compare-quants", str(wide), "--types", "q4_0,Q2_K", *names]
    arguments += ["--ctx", "64", "--chunks", "3"]
    assert run([*arguments, "--markdown", "--memory", "1GB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in table] == [
        "type", "---", "F32 (as given)", "Q4_0", "Q2_K",
    ]  # fmt: skip
    assert {row.count("|") for row in table} == {12}
    assert lines[-1].startswith("in 1.00 GB of memory, for one.txt: ")
    assert run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [v["type"] for v in told["variants"]] == ["Q4_0", "Q2_K"]
    assert told["variants"][0]["texts"][1]["kl"][0] > 0
    for wrong in (["--memory", "much"], ["--memory", "1.2.3G"], ["--json", "--markdown"]):
        assert run([*arguments, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_plot_is_a_picture(wide: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "one.txt").write_text(TEXTS[0].text, encoding="utf-8")
    arguments = [
        "compare-quants",
        str(wide),
        "--types",
        "Q8_0",
        "--text",
        str(tmp_path / "one.txt"),
    ]
    arguments += ["--ctx", "64", "--chunks", "2", "--plot", str(tmp_path / "plot.png")]
    assert run(arguments) == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
