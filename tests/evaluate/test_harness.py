"""The trio behind lm-evaluation-harness: its three methods, and its command line on local files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from benchmark_data import ENGLISH, WORDS

from trimix_edge import TriMix
from trimix_edge.config import ContextParams, Draft, FusionWeights, SamplingParams
from trimix_edge.errors import EvaluationError, TrioConfigError, UsageError
from trimix_edge.evaluate import harness
from trimix_edge.evaluate.harness import HarnessModel, ModelArguments
from trimix_edge.weights import WeightChoice

CONTEXT = "Uyghur: كىتاب\nEnglish:"
LONG = " the file དེབ" * 60


class Request(NamedTuple):
    """An ``Instance`` as far as the methods look into it."""

    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def trimix(tiny: Path) -> Iterator[TriMix]:
    with TriMix.load(tiny, context=ContextParams(n_ctx=256, kv_type="f32", n_threads=1)) as loaded:
        yield loaded


@pytest.fixture
def model(trimix: TriMix) -> HarnessModel:
    return HarnessModel(trimix)


def asked(*arguments: object) -> list[Request]:
    return [Request(arguments)]


def test_a_continuation_costs_what_the_library_says(model: HarnessModel, trimix: TriMix) -> None:
    for text in (" book", " دېڭىز", " དེབ་\n"):
        (found,) = model.loglikelihood(asked(CONTEXT, text))
        score = trimix.score(text, CONTEXT)
        assert found[0] == pytest.approx(float(score.fused.logprobs.sum()))
        assert found[1] == bool(score.fused.greedy.all())


def test_what_greedy_decoding_writes_is_greedy(model: HarnessModel, trimix: TriMix) -> None:
    written = trimix.generate(CONTEXT, chat=False, max_tokens=40, draft=Draft(0)).token_ids
    tokens = trimix.tokenize(CONTEXT)
    scores = model._scores(tokens, written)
    assert scores.greedy.all()
    other = [*written[:-1], (written[-1] + 1) % 300]
    assert model._scores(tokens, other).greedy.tolist() == [True] * (len(written) - 1) + [False]


def test_the_space_before_a_word_counts_on_either_side(model: HarnessModel) -> None:
    one, other = (
        model.loglikelihood(asked(context, text))
        for context, text in ((CONTEXT, " book"), (f"{CONTEXT} ", "book"))
    )
    assert one == other


def test_costs_of_parts_add_up(model: HarnessModel) -> None:
    ((both, _),) = model.loglikelihood(asked(CONTEXT, " the window"))
    ((first, _),) = model.loglikelihood(asked(CONTEXT, " the"))
    ((second, _),) = model.loglikelihood(asked(f"{CONTEXT} the", " window"))
    assert both == pytest.approx(first + second, rel=1e-4)


def test_without_a_context_all_tokens_count(model: HarnessModel, trimix: TriMix) -> None:
    vocab = trimix.trio.vocab
    ((found, _),) = model.loglikelihood(asked("", " the file"))
    expected = trimix.score(" the file", vocab.special_text(vocab.bos), chat=False)
    assert len(expected.token_ids) == len(trimix.tokenize(" the file"))
    assert found == pytest.approx(float(expected.fused.logprobs.sum()))
    assert model.loglikelihood_rolling(asked(" the file")) == [pytest.approx(found)]


def test_nothing_costs_nothing(model: HarnessModel) -> None:
    assert model.loglikelihood(asked(CONTEXT, "")) == [(0.0, True)]
    assert model.loglikelihood_rolling(asked("")) == [0.0]
    assert (
        model.loglikelihood([]) == model.loglikelihood_rolling([]) == model.generate_until([]) == []
    )


def test_one_token_can_be_scored_with_and_without_a_context(model: HarnessModel) -> None:
    ((after, _),) = model.loglikelihood(asked(CONTEXT, " the"))
    ((alone, _),) = model.loglikelihood(asked("", " the"))
    assert after < 0
    assert alone < 0
    assert model.loglikelihood_rolling(asked(" the")) == [alone]


def test_a_text_longer_than_the_context_is_scored_whole(
    model: HarnessModel, trimix: TriMix
) -> None:
    n = len(trimix.tokenize(LONG))
    assert n > 256
    (found,) = model.loglikelihood_rolling(asked(LONG))
    vocab = trimix.trio.vocab
    tokens = [vocab.bos, *trimix.tokenize(LONG)]
    scores = model._scores([], tokens, 256)
    assert len(scores.logprobs) == n
    assert found == float(scores.logprobs.sum())
    ((continued, _),) = model.loglikelihood(asked(LONG, " the window"))
    assert np.isfinite(continued)


def test_an_answer_is_what_the_library_generates_up_to_a_stop(
    model: HarnessModel, trimix: TriMix
) -> None:
    whole = trimix.generate(CONTEXT, chat=False, max_tokens=60, stop=[], draft=Draft(0)).text
    settings = {"until": [], "max_gen_toks": 60, "do_sample": False}
    assert model.generate_until(asked(CONTEXT, settings)) == [whole]
    stop = whole[10:12]
    for until in (stop, [stop], ["", stop, "never"]):
        (found,) = model.generate_until(asked(CONTEXT, {**settings, "until": until}))
        assert found == whole[: whole.index(stop)]


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens"])
def test_a_task_says_how_long_an_answer_may_be(
    model: HarnessModel, trimix: TriMix, name: str
) -> None:
    expected = trimix.generate(CONTEXT, chat=False, max_tokens=5, stop=[], draft=Draft(0)).text
    assert model.generate_until(asked(CONTEXT, {name: 5})) == [expected]
    assert HarnessModel(trimix, 5).generate_until(asked(CONTEXT, {})) == [expected]


def test_a_prompt_that_is_too_long_loses_its_beginning_and_that_is_said_once(
    model: HarnessModel, trimix: TriMix, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"max_gen_toks": 20}
    cut = model._fitting(LONG, 20)
    assert LONG.endswith(cut)
    n = len(trimix.tokenize(cut))
    assert 236 - 12 < n <= 236
    expected = trimix.generate(cut, chat=False, max_tokens=20, stop=[], draft=Draft(0)).text
    assert model.generate_until([*asked(LONG, settings), *asked(LONG, settings)]) == [expected] * 2
    assert [record.message for record in caplog.records] == [
        "prompts of more than 236 tokens lose their beginning: raise n_ctx"
    ]
    assert len(trimix.tokenize(model._fitting(LONG, 10_000))) <= 128


def test_a_task_that_samples_draws_another_answer_each_time_and_the_same_again(
    model: HarnessModel, trimix: TriMix
) -> None:
    settings = {"max_gen_toks": 20, "do_sample": True, "temperature": 1.5, "top_p": 0.9}
    requests = asked(CONTEXT, settings) * 3
    found = model.generate_until(requests)
    assert len(set(found)) == 3
    assert model.generate_until(requests) == found
    sampling = SamplingParams(temperature=1.5, top_k=0, top_p=0.9, min_p=0.0, seed=1)
    second = trimix.generate(CONTEXT, chat=False, max_tokens=20, stop=[], sampling=sampling)
    assert found[1] == second.text


def test_a_temperature_without_sampling_is_greedy(model: HarnessModel) -> None:
    greedy = model.generate_until(asked(CONTEXT, {"max_gen_toks": 9}))
    settings = {"max_gen_toks": 9, "do_sample": False, "temperature": 2.0}
    assert model.generate_until(asked(CONTEXT, settings)) == greedy


def test_weights_by_prompt_are_chosen_for_each_request(tiny: Path) -> None:
    context = ContextParams(n_ctx=256, kv_type="f32", n_threads=1)
    with TriMix.load(tiny, weights=WeightChoice.AUTO, context=context) as trimix:
        model = HarnessModel(trimix)
        ((found, _),) = model.loglikelihood(asked(CONTEXT, " the window"))
        (rolling,) = model.loglikelihood_rolling(asked(" the window and the file"))
        score = trimix.score(" the window", CONTEXT)
        vocab = trimix.trio.vocab
        tokens = [vocab.bos, *trimix.tokenize(" the window and the file")]
        best = model._scores([], tokens)
    assert found == pytest.approx(float(score.fused.logprobs.sum()))
    assert rolling == float(best.logprobs.sum())
    for pair in (FusionWeights(0.1, 0.9), FusionWeights(1.0, 1.0)):
        with TriMix.load(tiny, weights=pair, context=context) as trimix:
            (fixed,) = HarnessModel(trimix).loglikelihood_rolling(asked(" the window and the file"))
        assert rolling >= fixed - 1e-3, "auto takes the pair that finds the text likeliest"


def test_conversations_go_through_the_template_of_large_ins(
    model: HarnessModel, trimix: TriMix
) -> None:
    text = model.apply_chat_template([{"role": "user", "content": CONTEXT}])
    assert trimix.trio.vocab.tokenize(text) == trimix.tokenize(CONTEXT, chat=True)
    assert "im_start" in model.chat_template(True)
    assert model.tokenizer_name == "trimix_edge-tiny"
    with pytest.raises(UsageError, match="gen_prefix"):
        model.apply_chat_template([], add_generation_prompt=False)


def test_results_go_into_the_cache_of_the_harness(trimix: TriMix) -> None:
    held = []

    class Hook:
        def add_partial(self, *what: object) -> None:
            held.append(what)

    model = HarnessModel(trimix)
    model.cache_hook = Hook()
    found = model.loglikelihood(asked(CONTEXT, " book"))
    assert held == [("loglikelihood", (CONTEXT, " book"), found[0])]


@pytest.mark.parametrize(
    ("given", "weights"),
    [("0.1:0.9", (0.1, 0.9)), ("0.1,0.9", (0.1, 0.9)), ([0.1, 0.9], (0.1, 0.9))],
)
def test_a_pair_of_weights_may_be_written_in_three_ways(
    given: object, weights: tuple[float, float]
) -> None:
    assert ModelArguments.read({"weights": given}).chosen_weights == FusionWeights(*weights)


def test_arguments_load_what_they_say(tiny: Path) -> None:
    arguments = ModelArguments.read(
        {"trio": str(tiny), "rule": "single:small_base", "n_ctx": 128, "n_threads": 1}
    )
    with arguments.load() as trimix:
        assert trimix.trio.n_ctx == 128
        assert str(trimix.rule) == "single:small_base"
        assert [str(role) for role in trimix.trio.roles] == ["small_base"]
        assert trimix.manifest.context.kv_type == "f32", "as the manifest says"
    files = {role: str(tiny / f"{role}.gguf") for role in ("large_ins", "small_cpt")}
    with ModelArguments.read({**files, "weights": "0.1:0.9", "n_threads": 1}).load() as trimix:
        assert trimix.manifest.weights == FusionWeights(0.1, 0.9)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"wieghts": "auto"}, "model_args: unknown 'wieghts'; known: trio, large_ins"),
        ({"n_ctx": "many"}, "model_args: n_ctx must be a whole number, not 'many'"),
        ({"n_ctx": True}, "n_ctx must be a whole number, not True"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0"),
        ({"weights": "0.1"}, "weights=0.1 is not LARGE_INS:SMALL_CPT, as in 0.1:0.9"),
        ({"rule": "median"}, "rule: 'median' is not one of"),
        ({"rule": "proxy", "weights": "auto"}, "give no weights"),
        ({"kv_type": "f8"}, "kv_type 'f8' is not one of"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        ModelArguments.read(given).load()
    assert "\n" not in str(raised.value)


def test_an_unknown_trio_is_told() -> None:
    with pytest.raises(TrioConfigError, match="no trio is called 'klingon'"):
        ModelArguments.read({"trio": "klingon"}).load()


def test_a_harness_that_is_not_installed_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    harness.register.cache_clear()
    with pytest.raises(EvaluationError, match=r"pip install 'trimix-edge\[lm-eval\]'"):
        harness.register()
    assert harness.main() == 1
    told = capsys.readouterr().err
    assert told == "trimix-edge: lm-eval is not installed: pip install 'trimix-edge[lm-eval]'\n"


TASKS = {
    "tiny_choice": """
output_type: multiple_choice
doc_to_text: "Word: {{word}}\\nEnglish:"
doc_to_choice: "{{options}}"
doc_to_target: answer
metric_list: [{metric: acc}]
""",
    "tiny_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{word}} {{options[0]}}"
metric_list: [{metric: byte_perplexity}]
""",
    "tiny_generation": """
output_type: generate_until
doc_to_text: "Word: {{word}}\\nEnglish:"
doc_to_target: "{{options[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks on one file of words."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "words.jsonl"
    lines = [
        {"word": word, "options": [ENGLISH[n], ENGLISH[n - 1]], "answer": 0}
        for n, word in enumerate(WORDS["bo"])
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ntest_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: '{data}'}}}}\n{text}",
            encoding="utf-8",
        )
    return folder


def lm_eval_says(tmp_path: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trimix_edge.evaluate.harness", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "OMP_NUM_THREADS": "1",
        },
    )


def test_its_own_command_line_runs_tasks_on_a_trio(
    tiny: Path, trimix: TriMix, tasks: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    ended = lm_eval_says(
        tmp_path, "--model", "trimix_edge", "--model_args",
        f"trio={tiny},weights=0.5:0.8,n_ctx=256,n_threads=1", "--tasks", ",".join(TASKS),
        "--include_path", tasks, "--output_path", tmp_path / "out", "--log_samples",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "tiny_choice" in ended.stdout
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert results.keys() == set(TASKS)
    model = HarnessModel(trimix)
    prompts = [f"Word: {word}\nEnglish:" for word in WORDS["bo"]]
    right = []
    for n, prompt in enumerate(prompts):
        costs = [model.loglikelihood(asked(prompt, f" {ENGLISH[at]}"))[0][0] for at in (n, n - 1)]
        right.append(costs[0] > costs[1])
    assert results["tiny_choice"]["acc,none"] == pytest.approx(np.mean(right))
    texts = [f"{word} {ENGLISH[n]}" for n, word in enumerate(WORDS["bo"])]
    nats = sum(model.loglikelihood_rolling([Request((text,)) for text in texts]))
    n_bytes = sum(len(text.encode()) for text in texts)
    found = results["tiny_rolling"]["byte_perplexity,none"]
    assert found == pytest.approx(np.exp(-nats / n_bytes), rel=1e-4)
    (path,) = (tmp_path / "out").rglob("samples_tiny_generation_*.jsonl")
    samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = [sample["resps"][0][0] for sample in samples]
    settings = {"until": ["\n"], "max_gen_toks": 8}
    assert answers == model.generate_until([Request((prompt, settings)) for prompt in prompts])


def test_its_command_line_tells_a_wrong_argument_in_one_line(tasks: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    ended = lm_eval_says(
        tmp_path, "--model", "trimix_edge", "--model_args", "trio=klingon", "--tasks",
        "tiny_choice", "--include_path", tasks,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("trimix-edge: no trio is called 'klingon'")
    assert "Traceback" not in ended.stderr
