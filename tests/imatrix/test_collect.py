"""What trimix-edge imatrix sums up, and what becomes of runs that end too early."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tiny_models import edit_gguf

from trimix_edge.cli import run
from trimix_edge.errors import ImatrixError, TargetError, UsageError
from trimix_edge.llama import LlamaModel, ggml_tensor, imatrix
from trimix_edge.llama.calibration import CalibrationText, plan_counts
from trimix_edge.llama.chunks import ChunkRunner, chunks_of
from trimix_edge.llama.imatrix import add_squares, collect_imatrix
from trimix_edge.llama.imatrix_file import read_imatrix

Floats = npt.NDArray[np.float64]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(gguf: Path) -> dict[str, Floats]:
    from gguf import GGUFReader

    return {t.name: np.array(t.data, np.float64) for t in GGUFReader(gguf).tensors}


def normalised(x: Floats, weight: Floats) -> Floats:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight


def first_layer(w: dict[str, Floats], tokens: list[int]) -> dict[str, Floats]:
    """Inputs of the weights of the first layer of a Llama, in NumPy: heads of 32, one KV head."""
    x = w["token_embd.weight"][tokens]
    n, n_head = len(tokens), x.shape[1] // 32
    a = normalised(x, w["blk.0.attn_norm.weight"])
    q = (a @ w["blk.0.attn_q.weight"].T).reshape(n, n_head, 32)
    k = (a @ w["blk.0.attn_k.weight"].T).reshape(n, 1, 32)
    v = a @ w["blk.0.attn_v.weight"].T
    angle = np.arange(n)[:, None] * 10000.0 ** (-np.arange(16) / 16)

    def rope(y: Floats) -> Floats:
        """Pairs of neighbours turn: the converter has permuted the rows for that."""
        even, odd = y[..., 0::2], y[..., 1::2]
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        turned = np.empty_like(y)
        turned[..., 0::2], turned[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
        return turned

    q, k = rope(q), rope(k)[:, 0]
    scores = np.einsum("qhd,kd->hqk", q, k) / np.sqrt(32)
    scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    attended = np.einsum("hqk,kd->qhd", p, v).reshape(n, -1)
    x = x + attended @ w["blk.0.attn_output.weight"].T
    f = normalised(x, w["blk.0.ffn_norm.weight"])
    gate, up = f @ w["blk.0.ffn_gate.weight"].T, f @ w["blk.0.ffn_up.weight"].T
    return {
        "attn_q": a, "attn_k": a, "attn_v": a, "attn_output": attended,
        "ffn_gate": f, "ffn_up": f, "ffn_down": gate / (1 + np.exp(-gate)) * up,
    }  # fmt: skip


def test_the_first_layer_equals_numpy(wide: Path, text: str, matrix: Path) -> None:
    w, made = weights(wide), read_imatrix(matrix)
    with LlamaModel(wide) as model:
        chunks = chunks_of(model.vocab, model.vocab.tokenize(text), 128)
    assert made.n_chunks == len(chunks) >= 4
    expected: dict[str, Floats] = {}
    for chunk in chunks:
        for name, rows in first_layer(w, chunk).items():
            expected[name] = expected.get(name, 0.0) + (rows**2).sum(axis=0)
    assert len(expected) == 7
    for name, sums in expected.items():
        entry = made.entries[f"blk.0.{name}.weight"]
        # llama.cpp keeps keys and values in half precision.
        np.testing.assert_allclose(entry.sums[0], sums, rtol=5e-3)
        assert entry.counts.tolist() == [128 * len(chunks)]


def test_every_matrix_of_every_layer_is_there(matrix: Path) -> None:
    kinds = ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")
    expected = [f"blk.{i}.{kind}.weight" for i in range(2) for kind in kinds]
    assert sorted(read_imatrix(matrix).entries) == expected


def test_the_output_matrix_is_there_if_asked_for(wide: Path, text: str, tmp_path: Path) -> None:
    texts = [CalibrationText("t", text)]
    report = collect_imatrix(wide, tmp_path / "m.gguf", texts, process_output=True, max_chunks=1)
    assert "output.weight" in report.matrix.entries


def test_squares_are_added_in_order_in_float32() -> None:
    """As llama.cpp adds them: the order decides about the last bits."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((500, 48)).astype(np.float32)
    start = random.random(48).astype(np.float32) * 1000
    sums, expected = start.copy(), start.copy()
    add_squares(rows, sums)
    for row in rows:
        expected += row * row
    assert np.array_equal(sums, expected)


def test_experts_get_the_rows_that_were_sent_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    n_tokens, n_used, n_experts, width = 20, 2, 5, 8
    chosen = np.stack([random.permutation(4)[:n_used] for _ in range(n_tokens)]).astype(np.int32)
    for n_rows in (1, n_used):  # ffn_up has one row for all its experts, ffn_down one for each
        rows = random.standard_normal((n_tokens, n_rows, width)).astype(np.float32)
        tensors = {"rows": rows[None], "ids": chosen[None, None]}
        monkeypatch.setattr(ggml_tensor, "values", lambda key: tensors[key.key])  # noqa: B023
        collector = imatrix._Collector("m.gguf", imatrix.ImportanceMatrix(), False)

        class Tensor:
            def __init__(self, key: str, *ne: int) -> None:
                self.key, self.ne = key, ne

        collector._take_experts(
            "blk.0.x", Tensor("w", width, 3, n_experts, 1), Tensor("rows", width), Tensor("ids")
        )
        collector.commit()
        entry = collector.matrix.entries["blk.0.x"]
        sums, counts = np.zeros((n_experts, width)), np.zeros(n_experts)
        for token, experts in enumerate(chosen):
            for slot, expert in enumerate(experts):
                sums[expert] += rows[token, slot % n_rows].astype(np.float64) ** 2
                counts[expert] += 1
        np.testing.assert_allclose(entry.sums, sums, rtol=1e-5)
        assert entry.counts.tolist() == counts.tolist()
        assert np.array_equal(entry.means().reshape(n_experts, -1)[4], np.ones(width))


def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(
    wide: Path, text: str, matrix: Path, tmp_path: Path
) -> None:
    target, texts = tmp_path / "m.gguf", [CalibrationText("words.txt", text)]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_imatrix(wide, target, texts, chunk_size=128, on_progress=stop)
    assert leftovers(tmp_path) == ["m.gguf.part"]
    heard: list[int] = []
    report = collect_imatrix(
        wide, target, texts, chunk_size=128, on_progress=lambda done, total: heard.append(done)
    )
    assert report.n_resumed == 3
    assert heard[0] == 4
    assert target.read_bytes() == matrix.read_bytes()
    assert leftovers(tmp_path) == ["m.gguf"]


def test_a_killed_run_keeps_what_it_saved(wide: Path, text: str, tmp_path: Path) -> None:
    """Saved after each chunk, and killed while it waits after the second."""
    source = tmp_path / "t.txt"
    source.write_text(text, encoding="utf-8")
    program = (
        "import sys, time; from pathlib import Path;"
        "from trimix_edge.llama.imatrix import collect_imatrix;"
        "from trimix_edge.llama.calibration import CalibrationText;"
        "model, text, out = map(Path, sys.argv[1:]);"
        "collect_imatrix(model, out, [CalibrationText('t', text.read_text('utf-8'))],"
        "    chunk_size=128, save_every=0.0,"
        "    on_progress=lambda done, total: time.sleep(60 if done == 3 else 0))"
    )
    target = tmp_path / "m.gguf"
    arguments = [sys.executable, "-c", program, str(wide), str(source), str(target)]
    partial = tmp_path / "m.gguf.part"
    with subprocess.Popen(arguments) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if partial.exists() and read_imatrix(partial).n_chunks == 2:
                break
            time.sleep(0.02)
        process.kill()
    report = collect_imatrix(wide, target, [CalibrationText("t", text)], chunk_size=128)
    assert report.n_resumed == 2


def test_an_unfinished_run_of_other_texts_is_not_gone_on_with(
    wide: Path, text: str, matrix: Path, tmp_path: Path
) -> None:
    target, texts = tmp_path / "m.gguf", [CalibrationText("t", text)]
    (tmp_path / "m.gguf.part").write_bytes(matrix.read_bytes())
    with pytest.raises(TargetError, match=r"m\.gguf\.part is an unfinished run with another"):
        collect_imatrix(wide, target, texts)
    (tmp_path / "m.gguf.part").write_bytes(matrix.read_bytes()[:200])
    with pytest.raises(TargetError, match="can't be gone on with"):
        collect_imatrix(wide, target, texts)
    assert collect_imatrix(wide, target, texts, overwrite=True).n_resumed == 0


def test_ctrl_c_in_a_chunk_ends_with_130(wide: Path, tmp_path: Path) -> None:
    source = tmp_path / "t.txt"
    source.write_text(" the name of the file is in the window and" * 20_000, encoding="utf-8")
    target = tmp_path / "m.gguf"
    arguments = ["imatrix", str(wide), "--text", str(source), "--out", str(target)]
    program = (
        "import sys; from trimix_edge.llama import imatrix; old = imatrix._Collector.on_node;"
        "imatrix._Collector.on_node = lambda *a: (print('node', flush=True), old(*a))[1];"
        "from trimix_edge.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(200):
            assert process.stdout.readline() == b"node\n"
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        told = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert b"Traceback" not in told
    assert not target.exists()


def test_what_the_callback_raises_comes_out_of_the_decode(wide: Path) -> None:
    def fail(address: int, ask: bool) -> bool:
        raise ValueError("from the callback")

    with LlamaModel(wide) as model, ChunkRunner(model, 64, on_node=fail) as runner:
        for _ in range(2):
            with pytest.raises(ValueError, match="from the callback"):
                runner.run(list(range(64)))


def test_activations_that_are_not_finite_are_named(wide: Path, text: str, tmp_path: Path) -> None:
    from gguf import GGUFReader

    broken = edit_gguf(wide, tmp_path / "broken.gguf", {})
    (norm,) = (t for t in GGUFReader(broken, "r+").tensors if t.name == "blk.1.ffn_norm.weight")
    norm.data[7] = np.nan
    norm.data.flush() if hasattr(norm.data, "flush") else None
    del norm
    with pytest.raises(ImatrixError, match=r"broken\.gguf: the sums of blk\.1\.ffn_\w+\.weight"):
        collect_imatrix(broken, tmp_path / "m.gguf", [CalibrationText("t", text)])
    assert leftovers(tmp_path) == ["broken.gguf"]


def test_shares_decide_how_many_chunks_of_each_text() -> None:
    assert plan_counts([10, 5], None, None) == [10, 5]
    assert plan_counts([10, 100], [0.7, 0.3], None) == [10, 4]
    assert plan_counts([100, 100], [70, 30], 10) == [7, 3]
    assert plan_counts([100, 1], [0.5, 0.5], None) == [1, 1]
    assert plan_counts([100, 50], None, 15) == [10, 5]


def test_the_command_line_takes_texts_with_shares(
    wide: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, part in (("a.txt", text), ("b:1.txt", text[: len(text) // 2])):
        (tmp_path / name).write_text(part, encoding="utf-8")
    out = tmp_path / "m.gguf"
    arguments = ["imatrix", str(wide), "--ctx", "64", "--out", str(out)]
    both = ["--text", f"{tmp_path}/a.txt:0.75", "--text", f"{tmp_path}/b:1.txt:0.25"]
    assert run([*arguments, *both, "--chunks", "8"]) == 0
    assert "6 chunks of" in capsys.readouterr().out
    assert read_imatrix(out).datasets == (f"{tmp_path}/a.txt", f"{tmp_path}/b:1.txt")
    assert run([*arguments, "--force", "--text", f"{tmp_path}/b:1.txt"]) == 0
    for wrong, code, told in (
        (["--text", f"{tmp_path}/a.txt:half"], 2, "'half' is no share"),
        (["--text", f"{tmp_path}/a.txt:-1"], 2, "greater than 0"),
        ([*both, "--text", f"{tmp_path}/a.txt"], 2, "all texts have a share or none"),
        (["--text", f"{tmp_path}/a.txt", "--ctx", "100"], 2, "multiple of 32"),
        (["--text", f"{tmp_path}/a.txt", "--ctx", "1024"], 2, "was trained on 512"),
        (["--text", f"{tmp_path}/none.txt"], 1, "none.txt"),
    ):
        capsys.readouterr()
        assert run([*arguments, "--force", *wrong]) == code, wrong
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1


def test_a_text_that_is_too_short_says_how_much_it_takes(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match=r"short\.txt is too short: it has \d tokens, .* 512"):
        collect_imatrix(wide, tmp_path / "m.gguf", [CalibrationText("short.txt", "the name")])
    assert leftovers(tmp_path) == []


def test_a_target_that_exists_stays(wide: Path, text: str, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    target.write_text("precious")
    with pytest.raises(TargetError, match="--force"):
        collect_imatrix(wide, target, [CalibrationText("t", text)])
    assert target.read_text() == "precious"
    with pytest.raises(UsageError, match="at least one text"):
        collect_imatrix(wide, target, [], overwrite=True)
    assert target.stat().st_size == 8
