"""Build the training and held-out data of the embedded trio, and its tokenizer.

    python prepare.py --help-text usr/share/libreoffice/help --nllb-seed nllb-seed-dzo-eng

Reads the aligned pages of LibreOffice's English and Dzongkha help and the NLLB-Seed pairs; writes
into ``work/``:

``pairs.tsv``         English, Dzongkha, 1 if in the slice that is seen as translations
``english.txt``       monolingual English, a paragraph a line
``dzongkha.txt``      monolingual Dzongkha, a paragraph a line
``tokenizer/``        a byte-level BPE trained on the three files above
``heldout/*.tsv``     dev and test: page, paragraph, English, Dzongkha

Help pages repeat themselves, so a random split would leak. Whole folders are held out, split into
dev and test by page, and everything in training that resembles a held-out paragraph, on either
language's side, is evicted; so is every dev item that resembles a test item.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

HELD_OUT_FOLDERS = ("smath", "schart", "sdraw")
END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 8192

# Tibetan vowel signs are marks: a splitter that knows \p{M} keeps a syllable whole. This is the
# splitter that llama.cpp calls "qwen35".
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The layout that all three models share: what is asked for is the name of the second field.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}English: {{ message['content'] | trim }}\nDzongkha:"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] | trim }}<|endoftext|>"
    "{% endif %}{% endfor %}"
)


class Pair(NamedTuple):
    page: str
    paragraph: str
    english: str
    dzongkha: str


class HelpPage(HTMLParser):
    """The paragraphs of one help page by their ids, which both languages share."""

    _VOID = frozenset({"br", "img", "input", "meta", "link", "hr"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: dict[str, str] = {}
        self._in_content = False
        self._id = ""
        self._tag = ""
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        id_ = dict(attrs).get("id") or ""
        if id_ == "DisplayArea":
            self._in_content = True
        if self._in_content and id_.startswith(("par_id", "hd_id")):
            self._id, self._tag, self._text = id_, tag, []
        elif tag == "br":
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self._id and tag == self._tag:
            self.paragraphs.setdefault(self._id, " ".join("".join(self._text).split()))
            self._id = ""

    def handle_data(self, data: str) -> None:
        if self._id:
            self._text.append(data)


def read_page(path: Path) -> dict[str, str]:
    page = HelpPage()
    page.feed(path.read_text(encoding="utf-8"))
    return page.paragraphs


def is_dzongkha(text: str) -> bool:
    """Whether most letters are Tibetan: many paragraphs of the Dzongkha help are still English."""
    tibetan = sum("\u0f40" <= c <= "\u0fbc" for c in text)
    latin = sum(c.isascii() and c.isalpha() for c in text)
    return tibetan > 5 and tibetan > latin


def read_help(root: Path) -> tuple[list[Pair], list[tuple[str, str]]]:
    """Aligned translated pairs, and English paragraphs (page, text) without a translation."""
    pairs: dict[tuple[str, str], Pair] = {}
    english: dict[str, tuple[str, str]] = {}
    english_root, dzongkha_root = root / "en-US" / "text", root / "dz" / "text"
    for path in tqdm(sorted(english_root.rglob("*.html")), desc="help pages", unit="page"):
        page = path.relative_to(english_root).as_posix()
        twin = dzongkha_root / page
        translated = read_page(twin) if twin.exists() else {}
        for paragraph, text in read_page(path).items():
            other = translated.get(paragraph, "")
            if len(text) < 3 or not re.search("[A-Za-z]", text):
                continue
            if is_dzongkha(other):
                pairs.setdefault((text, other), Pair(page, paragraph, text, other))
            else:
                english.setdefault(text, (page, text))
    return list(pairs.values()), list(english.values())


def read_nllb_seed(folder: Path) -> list[Pair]:
    english = (folder / "eng.txt").read_text(encoding="utf-8").splitlines()
    dzongkha = (folder / "dzo.txt").read_text(encoding="utf-8").splitlines()
    if len(english) != len(dzongkha):
        raise SystemExit(f"{folder}: eng.txt and dzo.txt have different numbers of lines")
    return [
        Pair("nllb-seed", str(n), e.strip(), d.strip())
        for n, (e, d) in enumerate(zip(english, dzongkha, strict=True))
        if e.strip() and d.strip()
    ]


def bigrams(text: str) -> frozenset[tuple[str, str]]:
    """Bigrams of words, or of syllables in Tibetan script; digits all look alike."""
    words = re.findall(r"[^\W\d_]+|\d+", re.sub(r"\d+", "0", text.lower().replace("་", " ")))
    return frozenset(zip(["", *words], [*words, ""], strict=True))


class NearDuplicates:
    """Finds texts whose bigram Jaccard similarity with one of a fixed set reaches a threshold."""

    def __init__(self, texts: Iterable[str], threshold: float = 0.5) -> None:
        self._threshold = threshold
        self._sizes: list[int] = []
        self._index: dict[tuple[str, str], list[int]] = defaultdict(list)
        for n, text in enumerate(texts):
            grams = bigrams(text)
            self._sizes.append(len(grams))
            for gram in grams:
                self._index[gram].append(n)

    def __contains__(self, text: str) -> bool:
        grams = bigrams(text)
        shared: Counter[int] = Counter()
        for gram in grams:
            shared.update(self._index.get(gram, ()))
        return any(
            count >= self._threshold * (len(grams) + self._sizes[n] - count)
            for n, count in shared.items()
        )


def is_heldout(page: str) -> bool:
    return page.split("/")[0] in HELD_OUT_FOLDERS


def split_heldout(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Dev and test, by page; one item an English text; no dev item resembles a test item."""
    items: dict[str, Pair] = {}
    for pair in pairs:
        if is_heldout(pair.page) and 4 <= len(pair.english.split()) <= 50:
            items.setdefault(pair.english, pair)
    test = [p for p in items.values() if crc32(p.page.encode()) % 2]
    english = NearDuplicates(p.english for p in test)
    dzongkha = NearDuplicates(p.dzongkha for p in test)
    dev = [
        p
        for p in items.values()
        if crc32(p.page.encode()) % 2 == 0
        and p.english not in english
        and p.dzongkha not in dzongkha
    ]
    return dev, test


def train_tokenizer(texts: Iterator[str], folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def write_tsv(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--help-text",
        type=Path,
        required=True,
        metavar="DIR",
        help="the packages' usr/share/libreoffice/help",
    )
    parser.add_argument("--nllb-seed", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--slice",
        type=int,
        default=12000,
        metavar="N",
        help="pairs that large_ins and small_base see as translations",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work")
    args = parser.parse_args()

    help_pairs, untranslated = read_help(args.help_text)
    dev, test = split_heldout(help_pairs)
    heldout = dev + test
    english_twin = NearDuplicates(p.english for p in heldout)
    dzongkha_twin = NearDuplicates(p.dzongkha for p in heldout)

    def keep(english: str, dzongkha: str = "") -> bool:
        return english not in english_twin and not (dzongkha and dzongkha in dzongkha_twin)

    candidates = [p for p in help_pairs if not is_heldout(p.page)] + read_nllb_seed(args.nllb_seed)
    pairs = [
        p for p in tqdm(candidates, desc="eviction", unit="pair") if keep(p.english, p.dzongkha)
    ]
    random.Random(args.seed).shuffle(pairs)
    english = [t for page, t in untranslated if not is_heldout(page) and keep(t)]
    english += [p.english for p in pairs]
    dzongkha = list(dict.fromkeys(p.dzongkha for p in pairs))

    (args.work / "heldout").mkdir(parents=True, exist_ok=True)
    in_slice = ((p.english, p.dzongkha, int(n < args.slice)) for n, p in enumerate(pairs))
    write_tsv(args.work / "pairs.tsv", in_slice)
    (args.work / "english.txt").write_text("\n".join(english) + "\n", encoding="utf-8")
    (args.work / "dzongkha.txt").write_text("\n".join(dzongkha) + "\n", encoding="utf-8")
    for name, items in (("dev", dev), ("test", test)):
        write_tsv(args.work / "heldout" / f"{name}.tsv", items)
    tokenizer = train_tokenizer(iter(english + dzongkha * 2), args.work / "tokenizer")

    def count(texts: list[str]) -> int:
        return sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))

    n_bytes = sum(len(text.encode()) for text in dzongkha)
    print(f"pairs      {len(candidates):6d} before eviction, {len(pairs)} kept")
    print(f"english    {len(english):6d} paragraphs, {count(english)} tokens")
    print(f"dzongkha   {len(dzongkha):6d} paragraphs, {count(dzongkha)} tokens")
    print(f"fertility  {n_bytes / count(dzongkha):6.2f} bytes of Dzongkha a token")
    print(f"held out   {len(dev):6d} dev, {len(test)} test")


if __name__ == "__main__":
    main()
