"""Tokenizers in the styles of well-known families, made of the vocabularies at hand.

Each has the parts of its family's ``tokenizer.json``, word for word; the vocabulary is a small one.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from android_demo.check.places import ROOT
from export.manifest import PocketspecError

TokenizerDescription = dict[str, Any]

DEMO = ROOT / "export/demo/Llama-Pocketspec-9M/tokenizer.json"
SHARED = ROOT.parent / "shared" / "data"
REAL = {
    "qwen2": SHARED / "tokenizers/qwen2",
    "gpt2": SHARED / "tokenizers/gpt2",
    "smollm": SHARED / "tokenizers/smollm",
    "stories": SHARED / "models/stories260k",
}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# As in o200k, DeepSeek and Falcon.
_OTHERS = {
    "o200k": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "deepseek": (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "anything": r"\S{2,5}?x|\d++|[\x{4E00}-\u9FFF]{2}|.|\P{Cc}+|[^\^\]a-z\s]{3,}",
}
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _split(pattern: dict[str, str], behavior: str = "Isolated", *, invert: bool = False) -> TokenizerDescription:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def _sequence(name: str, *parts: TokenizerDescription) -> TokenizerDescription:
    return {"type": "Sequence", name: list(parts)}


def _added(content: str, number: int = 0, **more: bool) -> TokenizerDescription:
    given = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **given, **more}


def sentencepiece() -> TokenizerDescription:
    """A vocabulary in SentencePiece's manner: bytes, and a few words made of merges."""
    words = ["▁th", "▁the", "▁a", "an", "in", "ing", "er", "▁t", "▁w", "▁.", "日本", "▁▁", "▁▁▁▁", "he"]
    letters = sorted({*"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789.,!?'\n日本語é�", *"".join(words)})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *letters, *words]
    merges = []
    for word in words:
        for place in range(1, len(word)):
            if word[:place] in pieces and word[place:] in pieces:
                merges.append([word[:place], word[place:]])
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {piece: number for number, piece in enumerate(dict.fromkeys(pieces))},
        "merges": merges,
    }
    begin = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    around = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {"<s>": begin}}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(piece, number) for number, piece in enumerate(pieces[:3])],
        "normalizer": _sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, _SPACES),
        "pre_tokenizer": None,
        "post_processor": around,
        "decoder": _sequence("decoders", back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip),
        "model": model,
    }


def _fallbacks() -> dict[str, TokenizerDescription]:
    """In the styles of Llama 2, Phi-3, Gemma, and newer SentencePiece conversions."""
    llama2, phi3, gemma, first, no_bytes = (sentencepiece() for _ in range(5))
    llama2["added_tokens"] += [_added("<extra>", normalized=True, special=False), _added("▁the▁", normalized=True)]
    ends = ("<|end|>", "<|user|>", "<|assistant|>")
    phi3["added_tokens"] += [_added(end, rstrip=True) for end in ends]
    phi3["added_tokens"] += [_added("<left>", lstrip=True), _added("one", single_word=True, special=False)]
    phi3["added_tokens"] += [_added("<|en", special=False), _added("  ", special=False, normalized=True)]
    gemma["normalizer"] = _SPACES
    gemma["pre_tokenizer"] = _split({"String": " "}, "MergedWithPrevious")
    gemma["decoder"] = _sequence("decoders", *gemma["decoder"]["decoders"][:3])
    gemma["added_tokens"] += [_added("\n" * count, special=False) for count in range(2, 9)]
    first["normalizer"] = None
    first["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    first["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    no_bytes["model"] |= {"byte_fallback": False, "fuse_unk": False}
    no_bytes["normalizer"] = {"type": "NFKC"}
    no_bytes["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
    no_bytes["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {"llama2": llama2, "phi3": phi3, "gemma": gemma, "metaspace-first": first, "without-bytes": no_bytes}


def _byte_levels(demo: TokenizerDescription) -> dict[str, TokenizerDescription]:
    """In the styles of Llama 3, GPT-4o, DeepSeek, and with every further part."""
    patterns = {"llama3": _LLAMA3, **_OTHERS}
    made = {}
    for name, pattern in patterns.items():
        one = copy.deepcopy(demo)
        one["pre_tokenizer"] = _sequence("pretokenizers", _split({"Regex": pattern}), _BYTE_LEVEL)
        made[name] = one
    llama3 = made["llama3"]
    llama3["model"]["ignore_merges"] = True
    begin = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    single = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    around = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {"<|endoftext|>": begin}}
    trim = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    llama3["post_processor"] = _sequence("processors", trim, around)
    mixed = made["mixed"] = copy.deepcopy(demo)
    letters = {"type": "Replace", "pattern": {"Regex": "[xyz]{2,}|\\s{3,}"}, "content": "<>"}
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    mixed["normalizer"] = _sequence("normalizers", {"type": "NFKD"}, {"type": "Lowercase"}, strip, letters)
    mixed["added_tokens"] += [_added("Café Tokens", normalized=True, special=False), _added("naïve", normalized=True)]
    mixed["pre_tokenizer"] = _sequence(
        "pretokenizers",
        _split({"Regex": r"\p{L}+"}, "MergedWithNext", invert=True),
        _split({"String": "-"}, "Contiguous"),
        _split({"Regex": r"[.!?]"}, "MergedWithPrevious"),
        _split({"String": "|"}, "Removed"),
        {"type": "Digits", "individual_digits": False},
        _BYTE_LEVEL | {"add_prefix_space": True, "use_regex": True},
    )
    return made


def made_tokenizers() -> dict[str, TokenizerDescription]:
    """The tokenizers by the names of their styles, as ``tokenizer.json`` describes them."""
    if not DEMO.is_file():
        raise PocketspecError(f"no {DEMO}; take the whole checkout")
    demo = json.loads(DEMO.read_text(encoding="utf-8"))
    return {"demo": demo, **_byte_levels(demo), **_fallbacks()}


def write_tokenizers(folder: Path) -> dict[str, Path]:
    """Writes the made tokenizers below ``folder``; returns their folders, and those of the real ones at hand."""
    folders = {name: place for name, place in REAL.items() if (place / "tokenizer.json").is_file()}
    for name, description in made_tokenizers().items():
        folders[name] = folder / name
        folders[name].mkdir(parents=True, exist_ok=True)
        text = json.dumps(description, ensure_ascii=False)
        (folders[name] / "tokenizer.json").write_text(text, encoding="utf-8")
    return folders
