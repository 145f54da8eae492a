"""Texts of any length, read and encoded in pieces: no more than a piece of them is in memory.

A piece ends between two words, before the space, where tokens end in every usual vocabulary. In a text without such
places it ends before other white space, or at last anywhere; there a few tokens may differ from those of the whole.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from export.manifest import PocketspecError
from runtime.text.tokenizer import Tokenizer

_PIECE_BYTES = 1 << 14
_ENDS = (re.compile(r"[^\W\d_](?= [^\W\d_])"), re.compile(r"\S(?=\s)"))


def read_pieces(path: Path, num_bytes: int = _PIECE_BYTES) -> Iterator[str]:
    """The text of ``path``, ``num_bytes`` at a time; PocketspecError if it cannot be read or is not UTF-8."""
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            data = None
            while data != b"":
                data = file.read(num_bytes)
                text = decoder.decode(data, final=not data)
                done += len(text.encode())
                yield text
    except UnicodeDecodeError as error:
        raise PocketspecError(f"{path} is not UTF-8 text at byte {done + error.start}") from None
    except OSError as error:
        raise PocketspecError(f"cannot read {path}: {error.strerror}") from None


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[list[int]]:
    """The ids of the text that ``pieces`` are, without special tokens around it, a part of them at a time."""
    encode: Callable[[str], list[int]] = partial(tokenizer.encode, add_special_tokens=False)
    held = ""
    for piece in pieces:
        held += piece
        end = _end_of(held)
        if end:
            yield encode(held[:end])
            held, encode = held[end:], tokenizer.encode_behind
    if held:
        yield encode(held)


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    word = "1"  # a text for tokenizers of token ids, too
    whole, inner = tokenizer.encode(word), tokenizer.encode(word, add_special_tokens=False)
    first = next(place for place in range(len(whole)) if whole[place : place + len(inner)] == inner)
    return whole[:first], whole[first + len(inner) :]


def _end_of(text: str) -> int:
    """The last place at which ``text`` can be cut; all of it if there is none."""
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text)]
        if ends:
            return ends[-1]
    return len(text)
