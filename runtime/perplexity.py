"""How well the target predicts a text file: perplexity per token, in windows that overlap.

A window has as many tokens as the context. The first is scored from its second token on. Each further one ends
``stride`` tokens later, and only these are scored, after the tokens that the window has before them. So every token but
the first is scored once, and behind the first window each has at least ``window - stride`` tokens before it. (Hugging
Face's guide to perplexity scores windows in the same way.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from export.manifest import PocketspecError
from export.perplexity import perplexity_at
from runtime.engine import Engine
from runtime.text.text_pieces import around, encode_pieces, read_pieces

_LEAST_TOKENS = 2


@dataclass(frozen=True)
class TextScore:
    """A text so far: ``tokens`` that were scored, their surprise in ``nats``, and the size of the text that was read.

    A first token that is part of the text has nothing before it, and is in none of these numbers.
    """

    tokens: int = 0
    nats: float = 0.0
    characters: int = 0
    num_bytes: int = 0

    @property
    def perplexity(self) -> float:
        """Per token."""
        return perplexity_at(self.nats_per_token)

    @property
    def nats_per_token(self) -> float:
        """The mean surprise of a token."""
        return self.nats / self.tokens

    @property
    def nats_per_character(self) -> float:
        """The same text's surprise per character, which compares models of different vocabularies."""
        return self.nats / self.characters

    @property
    def nats_per_byte(self) -> float:
        """Per byte of UTF-8."""
        return self.nats / self.num_bytes


def score_file(engine: Engine, path: Path, stride: int, show: Callable[[TextScore], None]) -> TextScore:
    """The score of the text in ``path``, which is read piece by piece; ``show`` is called after each window.

    PocketspecError if the file cannot be read, is not UTF-8 or has fewer than two tokens, and if ``stride`` tokens and
    one before them do not fit the context.
    """
    window = engine.capacity
    if not 1 <= stride < window:
        raise PocketspecError(
            f"a stride of {stride} tokens with windows of {window}, allowed: 1 to {window - 1}; half a window is usual"
        )
    before, after = around(engine.tokenizer)
    text = _Measured(read_pieces(path))
    tokens = chain([before], encode_pieces(engine.tokenizer, text), [after])
    score = TextScore()
    for ids, first in windows(tokens, window, stride):
        if not score.tokens and not before:
            text.leave_out(engine.tokenizer.token_bytes(ids[0]))
        nats = [-each.logprob for each in engine.score(ids, first=first)]
        score = TextScore(score.tokens + len(nats), score.nats + math.fsum(nats), text.characters, text.num_bytes)
        show(score)
    if not score.tokens:
        raise PocketspecError(
            f"{path} has fewer than {_LEAST_TOKENS} tokens, so there is nothing to predict; take a longer text"
            if text.num_bytes
            else f"{path} is empty; take a file with text in it"
        )
    return replace(score, characters=text.characters, num_bytes=text.num_bytes)


def windows(tokens: Iterable[list[int]], size: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """The windows over ``tokens``, which come in parts, and the place in each from which on it is scored."""
    held, done = list[int](), 0
    for part in tokens:
        held += part
        while len(held) >= (end := done + stride if done else size):
            yield held[end - size : end], end - stride - (end - size) if done else 1
            held, done = held[end - size :], size
    rest = len(held) - done
    if rest and len(held) >= _LEAST_TOKENS:
        last = held[-size:]
        yield last, len(last) - rest if done else 1


class _Measured:
    """The pieces of a text, whose characters and bytes are counted as they pass."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = pieces
        self.characters = self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self.characters += len(piece)
            self.num_bytes += len(piece.encode())
            yield piece

    def leave_out(self, data: bytes) -> None:
        """Does not count a part of the text; a character counts where its first byte is."""
        self.num_bytes -= len(data)
        self.characters -= sum(byte & 0xC0 != 0x80 for byte in data)
