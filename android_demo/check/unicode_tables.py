"""Writes what the tokenizers library knows of Unicode as Kotlin: ``python -m android_demo.check.unicode_tables``.

Categories and decompositions differ between Python, each version of Java and each version of Android; a tokenizer must
split a text in the same places everywhere. So the app asks none of them, and has the library's own answers, found by
asking it about every code point. Within the library the regular expressions (Oniguruma), the normalization and Rust's
own tests are of different versions of Unicode, too.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

TEXT = Path(__file__).parents[1] / "engine/src/main/kotlin/dev/pocketspec/text"
# In the order of their numbers in ``Unicode.kt``.
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn"
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HALF = len(_DIGITS) // 2
_LINE = 110
_CONSTANT = 60_000  # a constant in a class file has at most 65,535 bytes
_SURROGATES = range(0xD800, 0xE000)
_CODES = [code for code in range(0x110000) if code not in _SURROGATES]
_HANGUL = range(0xAC00, 0xD7A4)


def written(number: int) -> str:
    """A number of at least 0 in base 32, lowest digit first; digits from the upper half have more after them."""
    digits = ""
    while number >= _HALF:
        digits += _DIGITS[_HALF + number % _HALF]
        number //= _HALF
    return digits + _DIGITS[number]


def signed(number: int) -> str:
    """A number that may be below 0."""
    return written(number * 2 if number >= 0 else -number * 2 - 1)


def _found(pre_tokenizer: pre_tokenizers.PreTokenizer) -> set[int]:
    """The code points that ``pre_tokenizer`` keeps of a text of all of them."""
    pieces = pre_tokenizer.pre_tokenize_str("".join(map(chr, _CODES)))
    return {code for _, (start, end) in pieces for code in _CODES[start:end]}


def _matched(pattern: str) -> set[int]:
    return _found(pre_tokenizers.Split(Regex(pattern), "removed", invert=True))


def _runs(values: Callable[[int], int]) -> str:
    """The value of every code point, as runs of equal ones."""
    text, start, last = "", 0, values(0)
    for code in range(1, 0x110001):
        value = values(code) if code < 0x110000 else -1
        if value != last:
            text += written(code - start) + written(last)
            start, last = code, value
    return text


def categories() -> str:
    """The general category of each code point, as Oniguruma has it."""
    numbers: dict[int, int] = {}
    for number, name in enumerate(CATEGORIES.split()):
        numbers.update(dict.fromkeys(_matched(rf"\p{{{name}}}+"), number))
    return _runs(lambda code: numbers.get(code, len(CATEGORIES.split())))  # surrogates


def _set(members: Iterable[int]) -> str:
    kept = set(members)
    return _runs(lambda code: int(code in kept))


def numeric() -> str:
    """What Rust's ``char::is_numeric`` says, which finds digits."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    pieces = digits.pre_tokenize_str("".join(f"xx{chr(code)}" for code in _CODES) + "xx")
    return _set(ord(piece) for piece, _ in pieces if len(piece) == 1)


def word() -> str:
    r"""What the ``\w`` of Rust's regular expressions matches."""
    pieces = pre_tokenizers.Whitespace().pre_tokenize_str("".join(f" x{chr(code)}" for code in _CODES))
    return _set(ord(piece[1]) for piece, _ in pieces if len(piece) == 2)


def lowercase() -> str:
    """The code points that Rust writes in lower case otherwise, with what it writes."""
    text, last = "", 0
    lower = normalizers.Lowercase()
    for code in _CODES:
        small = lower.normalize_str(chr(code))
        if small != chr(code):
            text += written(code - last) + written(len(small))
            text += "".join(signed(ord(each) - code) for each in small)
            last = code
    return text


def decompositions() -> str:
    """Each code point with another decomposition: flags (1 canonical, 2 made by NFC), and the decomposition."""
    nfd, nfkd, nfc = normalizers.NFD(), normalizers.NFKD(), normalizers.NFC()
    text, last = "", 0
    for code in _CODES:
        character = chr(code)
        if code in _HANGUL or (whole := nfkd.normalize_str(character)) == character:
            continue
        parts = nfd.normalize_str(character)
        for decomposition, is_canonical in ((parts, 1), (whole, 0)):
            if decomposition == character or (not is_canonical and whole == parts):
                continue
            flags = is_canonical + 2 * (is_canonical and nfc.normalize_str(character) == character)
            text += written(code - last) + written(flags) + written(len(decomposition))
            text += "".join(signed(ord(each) - code) for each in decomposition)
            last = code
    return text


def combining_classes() -> str:
    """The canonical combining class of each code point: Python's, where the library reorders the character."""
    nfd = normalizers.NFD()

    def value(code: int) -> int:
        number = 0 if code in _SURROGATES else unicodedata.combining(chr(code))
        if not number:
            return 0
        low, high = "\u0334", "\u0345"  # of the lowest class, 1, and the highest, 240
        first, second = (chr(code), low) if number > 1 else (high, chr(code))
        return number if nfd.normalize_str("a" + first + second) == "a" + second + first else 0

    return _runs(value)


def _kotlin(name: str, table: str) -> str:
    parts = [table[start : start + _CONSTANT] for start in range(0, len(table), _CONSTANT)]
    texts = []
    for part in parts:
        lines = [part[start : start + _LINE] for start in range(0, len(part), _LINE)]
        texts.append(" +\n        ".join(f'"{line}"' for line in lines))
    listed = ",\n        ".join(texts)
    return f"    val {name}: Array<String> = arrayOf(\n        {listed},\n    )\n"


def source(name: str, about: str, tables: dict[str, str]) -> str:
    """A Kotlin file with an object ``name`` that has the ``tables``."""
    lines = "\n".join(_kotlin(each, table) for each, table in tables.items())
    return (
        "// Written by: python -m android_demo.check.unicode_tables\n"
        f"package dev.pocketspec.text\n\n/** {about} */\ninternal object {name} {{\n{lines}}}\n"
    )


def files() -> dict[str, str]:
    """The Kotlin files and their text."""
    sets = {"CATEGORIES": categories(), "NUMERIC": numeric(), "WORD": word(), "LOWERCASE": lowercase()}
    forms = {"DECOMPOSITIONS": decompositions(), "COMBINING_CLASSES": combining_classes()}
    return {
        "UnicodeSets.kt": source(
            "UnicodeSets", "Which characters are letters, digits and so on; see `Unicode` for the form.", sets
        ),
        "UnicodeForms.kt": source(
            "UnicodeForms", "What characters consist of; see `UnicodeNormalization` for the form.", forms
        ),
    }


def main() -> int:
    """Writes the files."""
    for name, text in files().items():
        (TEXT / name).write_text(text)
        sys.stdout.write(f"{TEXT / name}: {len(text):,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
