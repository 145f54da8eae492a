"""Texts that tokenizers find hard: many scripts, emoji, marks, white space, broken UTF-8, code, special tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

_SCRIPTS = {
    "latin": "Übergröße naïve façade Æsir œuvre ĳsland ﬁn ﬂat straße ſtraße İstanbul ıssız ǅ ẞ",
    "vietnamese": "Tiếng Việt có dấu thanh Tie\u0302\u0301ng Vie\u0323\u0302t",
    "cyrillic": "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "greek": "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία ΌΣΟΣ",
    "arabic": "مرحبا بالعالم ١٢٣ العَرَبِيَّة ﷺ لا",
    "hebrew": "שָׁלוֹם עוֹלָם וְיֹאמְרוּ",
    "devanagari": "नमस्ते दुनिया क्षत्रिय १२३",
    "bengali": "বাংলা ভাষা ক্ষ",
    "tamil": "தமிழ் மொழி",
    "thai": "สวัสดีชาวโลก ภาษาไทย ๑๒๓",
    "tibetan": "བོད་སྐད་ ༠༡༢",
    "chinese": "你好世界 繁體中文 一二三 〇 㐀 𠀀𪚥",
    "japanese": "日本語のテキスト ﾊﾝｶｸ カタカナ がﾞか\u3099",
    "korean": "안녕하세요 세계 각 \u1112\u1161\u11ab 한국어",
    "ethiopic": "ሰላም ልዑል ፩፪፫",
    "emoji": "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇺🇳 ☺️ 🏴‍☠️ 1️⃣ 🧑🏿‍🚀 😀😀",
    "marks": "e\u0301 a\u0328\u0301 \u0344 q\u0307\u0323 \u0301alone Z\u0351\u036b\u0343\u0489a\u0300\u0315",
    "forms": "ﬃ Ⅷ ① ½ ㎏ ㍿ ℌ ｆｕｌｌ ² ｡ ⑴ Ǆ ﷽ \u212b \u2126 \u0958 \ufb1d \u2adc",
    "private": "\ue000\uf8ff \U000f0000 \U0010fffd \ufdd0 \uffff \U0003fffe \u0378 \U000e0041",
    "controls": "\x00\x01\x07\x08\x0b\x0c\x0e\x1b[0m\x1f\x7f\x80\x85\x9f \u200b\u200d\u200e\u202e\u2028\u2029\ufeff",
    "spaces": "a  b   c\t\td\n\n e \n f\r\n\r\ng\u00a0h\u3000i\u2003j\u1680k\u205fl\u180em\x1cn   ",
    "numbers": "3.14159 1,234,567 0x1F 1e-9 ٣٤ ௧௨ Ⅻ ㉈ 10²³ 2024-12-31 00:59 007",
    "code": "def f(x):\n    return {'a': [x**2 for _ in range(10)]}  # !\n\tif (a != b && c->d) { s += \"\\n\"; }",
    "markup": "<p class='x'>&amp;</p> https://a.b/c?d=e&f=g#h user@host.org **bold** $x^2_i$ </s>",
    "contractions": "I'M don't we'll THEY'RE you'Ve 'Twas o'clock it'ſ he'S 'LL 'd'D ’s",
    "mixed": "iPhone15Pro ABCdef XMLHttp nAïVE ΑΒγ Яя１２３ 中a文b xyzzy -- --- |a|b| end. Wow!? one oneself",
}
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<unk>",
    "<|end|>",
    "<|user|>",
    "<left>",
    "one",
)
_SPECIAL = (*SPECIAL, "<|en", "<extra>", "▁the▁", "▁", "<0x0A>", "<0xFF>", "\n\n\n", "Café Tokens", "naïve", "NAÏVE")
_BLOCKS = ((0x20, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x1000), (0x1000, 0x2000))
_MORE_BLOCKS = ((0x2000, 0x2FFF), (0x3000, 0xA000), (0xA000, 0xD7FF), (0xE000, 0x10000), (0x10000, 0x20000))


def _words(draw: random.Random) -> str:
    scripts = draw.sample(sorted(_SCRIPTS), draw.randint(1, 3))
    words = [word for script in scripts for word in _SCRIPTS[script].split(" ")]
    draw.shuffle(words)
    return draw.choice((" ", " ", "  ", "\n", "")).join(words[: draw.randint(1, 12)])


def _cut(draw: random.Random) -> str:
    text = _SCRIPTS[draw.choice(sorted(_SCRIPTS))]
    start = draw.randrange(len(text))
    return text[start : start + draw.randint(0, 30)]


def _characters(draw: random.Random) -> str:
    blocks = [draw.choice((*_BLOCKS, *_MORE_BLOCKS, (0x20000, 0x110000))) for _ in range(draw.randint(1, 3))]
    return "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randint(1, 25)))


def _with_special(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.randint(1, 4)):
        parts += [draw.choice(("", " ", "\n", "  ", _cut(draw))), draw.choice(_SPECIAL)]
    return "".join([*parts, draw.choice(("", " ", "\n\n", _cut(draw)))])


def _spaces(draw: random.Random) -> str:
    return "".join(draw.choice(" \n\t\r\u00a0\u3000\u2028 ab.1") for _ in range(draw.randint(0, 30)))


def _broken(draw: random.Random) -> str:
    """UTF-8 with bytes that were lost or changed, as Python reads it with replacement marks, or with surrogates."""
    data = bytearray(_words(draw).encode("utf-8", "surrogatepass"))
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data) + 1)
        data[place : place + draw.randint(0, 2)] = draw.choice(
            (b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f", b"\xed\xa0\x80")
        )
    return bytes(data).decode("utf-8", draw.choice(("replace", "replace", "replace", "surrogateescape")))


def _repeated(draw: random.Random) -> str:
    return draw.choice(("ab", " ", "\n", "é", "日", "a ", "😀", "'s", "1", "=", "aaaa b")) * draw.randint(1, 60)


def hard_texts(count: int, seed: int = 0) -> Sequence[str]:
    """``count`` texts, of which the first are one of every script; some have surrogates, which are refused."""
    draw = random.Random(seed)
    makers = (_words, _words, _cut, _characters, _with_special, _with_special, _spaces, _broken, _repeated)
    fixed = ["", " ", "\n", "\ud800", "a\udc80b", "\ufffd", *_SCRIPTS.values()]
    return [*fixed[:count], *(draw.choice(makers)(draw) for _ in range(count - len(fixed)))]
