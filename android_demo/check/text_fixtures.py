"""Writes texts with the tokens and pieces that Python finds in them; the engine's tests find them again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from android_demo.check.hard_texts import hard_texts
from android_demo.check.made_tokenizers import write_tokenizers
from android_demo.check.places import BUILD
from runtime.text.tokenizer import TextStream, Tokenizer, TokenizerError

FOLDER = BUILD / "fixtures" / "text"
# Texts of each tokenizer in the gate, and in the long form.
FEW, MANY = 40, 2000


def _pieces(tokenizer: Tokenizer, tokens: Sequence[int], sizes: Sequence[int], after: Sequence[int]) -> list[str]:
    """What a stream returns for ``tokens`` fed ``sizes`` at a time, again and again, and at the end."""
    stream = TextStream(tokenizer, after)
    pieces: list[str] = []
    start = 0
    while start < len(tokens):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream.feed(tokens[start : start + size]))
        start += size
    return [*pieces, stream.flush()]


def _of_text(tokenizer: Tokenizer, text: str, draw: random.Random) -> dict[str, Any]:
    try:
        ids = tokenizer.encode(text)
    except TokenizerError as error:
        return {"text": text, "error": str(error)}
    bare = tokenizer.encode(text, add_special_tokens=False)
    sizes = [draw.randint(1, 4) for _ in range(draw.randint(1, 3))]
    return {"text": text, "ids": ids, "bare": bare, **_of_tokens(tokenizer, ids, sizes, [])}


def _of_tokens(tokenizer: Tokenizer, tokens: list[int], sizes: list[int], after: list[int]) -> dict[str, Any]:
    pieces = _pieces(tokenizer, tokens, sizes, after)
    return {
        "tokens": tokens,
        "after": after,
        "sizes": sizes,
        "pieces": pieces,
        "window": tokenizer.decode_window(tokens),
    }


def _any_tokens(tokenizer: Tokenizer, draw: random.Random) -> dict[str, Any]:
    """Tokens that no text has: broken characters, special tokens, ids beyond the vocabulary."""
    most = draw.choice((270, tokenizer.entries, tokenizer.entries + 20))
    tokens = [draw.randrange(most) for _ in range(draw.randint(0, 20))]
    after = [draw.randrange(most) for _ in range(draw.choice((0, 0, 3)))]
    return _of_tokens(tokenizer, tokens, [draw.randint(1, 3)], after)


def cases(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """What the tokenizer in ``folder`` makes of ``count`` texts and a quarter as many rows of tokens."""
    tokenizer = Tokenizer.open(folder)
    draw = random.Random(count)
    yield {"tokenizer": str(folder), "entries": tokenizer.entries, "special": tokenizer.special_tokens}
    for text in hard_texts(count):
        yield _of_text(tokenizer, text, draw)
    for _ in range(count // 4):
        yield _any_tokens(tokenizer, draw)


def write(folder: Path, count: int) -> int:
    """Writes a file for each tokenizer to ``folder``, with ``count`` texts; returns how many files."""
    shutil.rmtree(folder, ignore_errors=True)
    folders = write_tokenizers(folder / "tokenizers")
    for name, place in folders.items():
        lines = [json.dumps(case) for case in cases(place, count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(folders)
