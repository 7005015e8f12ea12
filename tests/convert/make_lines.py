"""Writes lines.json: 200 lines in the scripts that tokenizers get wrong.

Words of eight languages, emoji, control characters and code, strung together from a fixed seed.
All lines are in Unicode's NFC, as Qwen's tokenizers would make them: llama.cpp normalises
nothing, and on other input it differs from Hugging Face for that reason alone.

    python tests/convert/make_lines.py
"""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

WORDS = {
    "tibetan": "བོད ཡིག སློབ་གྲྭ རི ཆུ མི དཔེ་ཆ་ ལྷ་ས ཉི་མ ཟླ་བ སྐད་ཡིག་ རྒྱལ་ཁབ བདེ་མོ། གཅིག གཉིས་ གསུམ། ༡༢༣ ༄༅།། ཨོཾ་",
    "dzongkha": "རྫོང་ཁ འབྲུག་ རྒྱལ་ཡོངས གཞུང་ལས་ ཨིན། བརྡ་དོན་ ཁྱིམ་ ལཱ་ འབད་ནི་ ག་ཅི་ ཡོད། མེན་ སྤྱི་ཚོགས་ ལེགས་ཤོམ ༢༠༢༦",
    "uyghur": "ئۇيغۇر تىلى مەكتەپ كىتاب سۇ تاغ ئادەم ياخشى رەھمەت بىر ئۈچ، قانداق؟ شەھەر ئوقۇغۇچى",
    "kazakh": "قازاق ٴتىلى مەكتەپ كىتاپ سۋ تاۋ ادام جاقسى راحمەت ٴبىر ەكى ٴۇش، قالاي؟ قالا وقۋشى",
    "mongolian": "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ ᠪᠢᠴᠢᠭ ᠨᠣᠮ ᠤᠰᠤ ᠠᠭᠤᠯᠠ ᠬᠦᠮᠦᠨ ᠰᠠᠶᠢᠨ ᠨᠢᠭᠡ᠂ ᠬᠣᠶᠠᠷ ᠭᠤᠷᠪᠠ᠃ ᠠᠨᠤ ᠶᠢᠨ ᠬᠣᠲᠠ᠎ᠶᠢ",
    "bengali": "বাংলা ভাষা বিদ্যালয় বই জল পাহাড় মানুষ ভালো ধন্যবাদ এক দুই তিন। কেমন? ক্ষ্ম স্ত্রী ১২৩",
    "tamil": "தமிழ் மொழி பள்ளி நூல் நீர் மலை மனிதன் நன்று நன்றி ஒன்று இரண்டு மூன்று, எப்படி? க்ஷ ஸ்ரீ ௧௨௩",
    "english": "school book water mountain it's they'll I'VE don't two 3 44 555 6666 3.14 e.g. "
    'well-known (yes) "no" -> x_1 = f(y)[2]; // done https://example.org/?q=1&r=2',
    "emoji": "🚀 😶‍🌫️ ✅ 🦙🦙 👨‍👩‍👧‍👦 🇧🇹 🏔️ 👍🏽 ☺ ❤️ 🧑🏿‍🎓 ½ ﷽ 𝔘𝔫𝔦 𐍈 🫠",
}
CONTROLS = (
    "\t|\r\n|\n|\n\n\n|  |    |\x00|\x01|\x1b[0m|\x7f|\x85|\u200b|\u200d|\u200c|\u180e|\u202f"
    "|\u2028|\ufeff|\u00a0|\ufffd"
)


def sentence(rng: random.Random, words: list[str], low: int = 2, high: int = 7) -> str:
    joiner = rng.choice(["", " ", " ", " ", "  "])
    return joiner.join(rng.choice(words) for _ in range(rng.randint(low, high)))


def make_lines() -> list[str]:
    rng = random.Random(20260)
    controls = CONTROLS.split("|")
    words = {language: text.split() for language, text in WORDS.items()}
    lines = ["", " ", "  ", "\n", " \n x", "a", "▁", "a▁b", "\t\tif x:\n        return  1 \n"]
    for language in words:
        lines += [sentence(rng, words[language]) for _ in range(16)]
    every = [word for known in words.values() for word in known]
    while len(lines) < 200:
        parts = [rng.choice(every) for _ in range(rng.randint(2, 5))]
        for _ in range(rng.randint(0, 3)):
            parts.insert(rng.randint(0, len(parts)), rng.choice(controls))
        lines.append("".join(parts) if rng.random() < 0.5 else " ".join(parts))
    return [unicodedata.normalize("NFC", line) for line in lines]


if __name__ == "__main__":
    path = Path(__file__).with_name("lines.json")
    path.write_text(json.dumps(make_lines(), ensure_ascii=False, indent=0) + "\n", "utf-8")
