"""Train the three models of the embedded trio on what ``prepare.py`` wrote.

    python train.py small_base          # English, and the slice of pairs as plain text
    python train.py small_cpt           # small_base continued on monolingual Dzongkha, and replay
    python train.py large_ins           # English, English tasks, and translation over the slice

Each model is a Llama of a few million parameters. A checkpoint in Hugging Face's format and a log
of the losses land in ``work/<role>/``. Data order and initial weights follow ``--seed``.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

END_OF_TEXT = "<|endoftext|>"
ROW = 256
IGNORED = -100

Document = tuple[list[int], int]
"""Token ids, and how many of the first ones are a question that bears no loss."""


@dataclass(frozen=True)
class Recipe:
    hidden: int
    layers: int
    feed_forward: int
    heads: int
    tokens: int
    mixture: dict[str, float]
    learning_rate: float
    start_from: str | None = None


SMALL = {"hidden": 192, "layers": 3, "feed_forward": 512, "heads": 3}
LARGE = {"hidden": 256, "layers": 7, "feed_forward": 704, "heads": 4}
RECIPES = {
    "small_base": Recipe(
        **SMALL, tokens=4_000_000, mixture={"english": 0.75, "pairs": 0.25}, learning_rate=4e-3
    ),
    "small_cpt": Recipe(
        **SMALL,
        tokens=4_000_000,
        mixture={"dzongkha": 0.8, "pairs": 0.2},  # a fifth is replay, against forgetting
        learning_rate=3e-3,
        start_from="small_base",
    ),
    "large_ins": Recipe(
        **LARGE,
        tokens=7_000_000,
        mixture={"english": 0.15, "translate": 0.7, "tasks": 0.15},
        learning_rate=3e-3,
    ),
}


class Corpus:
    """The documents of ``work/``, encoded: one list of documents a source."""

    def __init__(self, work: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
        self._end = self._tokenizer.token_to_id(END_OF_TEXT)
        english = (work / "english.txt").read_text(encoding="utf-8").splitlines()
        dzongkha = (work / "dzongkha.txt").read_text(encoding="utf-8").splitlines()
        with (work / "pairs.tsv").open(encoding="utf-8", newline="") as file:
            pairs = [(e, d) for e, d, used in csv.reader(file, delimiter="\t") if used == "1"]
        ask = [f"English: {e}\nDzongkha:" for e, _ in pairs]
        answer = [" " + d for _, d in pairs]
        task_ask, task_answer = zip(*self._tasks([e for e, _ in pairs]), strict=True)
        self.sources: dict[str, list[Document]] = {
            "english": self._documents(english),
            "dzongkha": self._documents(dzongkha),
            "pairs": self._documents([a + b for a, b in zip(ask, answer, strict=True)]),
            "translate": self._documents(answer, ask),
            "tasks": self._documents(list(task_answer), list(task_ask)),
        }

    def _documents(self, texts: list[str], questions: list[str] | None = None) -> list[Document]:
        answers = self._tokenizer.encode_batch(texts)
        asks = self._tokenizer.encode_batch(questions or [""] * len(texts))
        return [
            ([*q.ids, *a.ids, self._end], len(q.ids)) for q, a in zip(asks, answers, strict=True)
        ]

    @staticmethod
    def _tasks(texts: list[str]) -> Iterator[tuple[str, str]]:
        """Small tasks on English text that teach a model to look back at its source."""
        for n, text in enumerate(texts):
            words = text.split()
            half = len(words) // 2
            if n % 3 == 0 or half < 2:
                yield f"English: {text}\nCopy:", f" {text}"
            elif n % 3 == 1:
                yield f"English: {' '.join(words[:half])}\nContinue:", f" {' '.join(words[half:])}"
            else:
                yield f"English: {text}\nLast words:", f" {' '.join(words[-3:])}"


def endless(documents: list[Document], rng: random.Random) -> Iterator[Document]:
    order = list(documents)
    while True:
        rng.shuffle(order)
        yield from order


def batches(
    corpus: Corpus, recipe: Recipe, rows: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Rows of whole documents: ids and labels, int64 [rows, ROW], and the tokens used so far."""
    rng = random.Random(seed)
    streams = {name: endless(corpus.sources[name], rng) for name in recipe.mixture}
    spent = dict.fromkeys(recipe.mixture, 0)
    held: Document | None = None
    end = corpus.sources["english"][0][0][-1]
    total = 0
    while total < recipe.tokens:
        ids = torch.full((rows, ROW), end)
        labels = torch.full((rows, ROW), IGNORED)
        for row in range(rows):
            at = 0
            while True:
                if held is None:
                    name = min(spent, key=lambda n: spent[n] / recipe.mixture[n])
                    held = next(streams[name])
                    held = (held[0][:ROW], held[1])
                    spent[name] += len(held[0])
                tokens, question = held
                if at + len(tokens) > ROW:
                    break
                piece = torch.tensor(tokens)
                ids[row, at : at + len(tokens)] = piece
                labels[row, at + question : at + len(tokens)] = piece[question:]
                at += len(tokens)
                held = None
            total += at
        yield ids, labels, total


def optimizers(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.1,
                         adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]  # fmt: skip


def schedule(warmup: float) -> Callable[[float], float]:
    """Linear rise over the first ``warmup`` of the tokens, then linear fall to zero."""
    return lambda done: min(done / warmup, (1 - done) / (1 - warmup))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("role", choices=RECIPES)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work")
    parser.add_argument("--tokens", type=int, help="training tokens, instead of the recipe's")
    parser.add_argument("--rows", type=int, default=16, help=f"rows of {ROW} tokens a batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    recipe = RECIPES[args.role]
    if args.tokens:
        recipe = Recipe(**{**asdict(recipe), "tokens": args.tokens})
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    corpus = Corpus(args.work)
    end = corpus.sources["english"][0][0][-1]

    if recipe.start_from:
        model = LlamaForCausalLM.from_pretrained(args.work / recipe.start_from)
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8192,
                hidden_size=recipe.hidden,
                intermediate_size=recipe.feed_forward,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                max_position_embeddings=1024,
                rope_theta=10000.0,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=end,
                pad_token_id=end,
            )
        )
    model.to(device).train()
    trunk = torch.compile(model.model)
    optims = optimizers(model, recipe.learning_rate)
    peaks = [group["lr"] for o in optims for group in o.param_groups]
    rate = schedule(warmup=0.05)

    log: list[tuple[int, float]] = []
    done, smooth = 0, math.nan
    with tqdm(total=recipe.tokens, unit="tok", unit_scale=True, desc=args.role) as bar:
        for ids, labels, used in batches(corpus, recipe, args.rows, args.seed):
            factor = max(0.0, rate(done / recipe.tokens))
            groups = [group for o in optims for group in o.param_groups]
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
            targets = labels[:, 1:].to(device)
            counts = targets != IGNORED
            with torch.autocast(device, torch.bfloat16):
                hidden = trunk(input_ids=ids.to(device)).last_hidden_state[:, :-1]
                logits = model.lm_head(hidden[counts])  # the widest product: only where it counts
            loss = nn.functional.cross_entropy(logits.float(), targets[counts])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optim in optims:
                optim.step()
                optim.zero_grad()
            value = loss.item()
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            log.append((used, value))
            bar.update(used - done)
            done = used
            bar.set_postfix(loss=f"{smooth:.3f}")

    folder = args.work / args.role
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(args.work / "tokenizer" / name, folder / name)
    (folder / "training.json").write_text(
        json.dumps({"recipe": asdict(recipe), "seed": args.seed, "loss": log}) + "\n"
    )
    print(f"{args.role}: {model.num_parameters() / 1e6:.2f} M parameters, final loss {smooth:.3f}")


if __name__ == "__main__":
    main()
