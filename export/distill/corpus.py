"""Records of prompt and response as one stream of tokens, and the random windows that training draws from it.

The stream consists of the conversations of a JSON-lines file (optionally ``.xz``), each in the tokenizer's chat
template. Half of the windows begin at the beginning of a conversation, as inference does.
"""

from __future__ import annotations

import itertools
import json
import lzma
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.distill.processes import own_share
from export.manifest import PocketspecError

IdStream = npt.NDArray[np.unsignedinteger[Any]]


def token_ids(numbers: npt.ArrayLike) -> IdStream:
    """``numbers`` as uint16, or as uint32 where one of them needs it."""
    array = np.asarray(numbers)
    fits = not array.size or array.max() <= np.iinfo(np.uint16).max
    return array.astype(np.uint16 if fits else np.uint32)


@dataclass(frozen=True)
class Record:
    """One exchange: prompt, response, and kind (a label of the data set)."""

    prompt: str
    response: str
    kind: str


@dataclass(frozen=True)
class Corpus:
    """A token stream. ``tokens`` is ``[n]``, ``starts`` int64 ``[conversations]``: where each one begins."""

    tokens: IdStream
    starts: npt.NDArray[np.int64]

    def windows(self, rng: np.random.Generator, rows: int, length: int) -> npt.NDArray[np.int64]:
        """``rows`` windows of ``length + 1`` tokens, int64 ``[rows, length + 1]``."""
        return self.tokens[self.window_index(rng, rows, length)].astype(np.int64)

    def window_index(self, rng: np.random.Generator, rows: int, length: int) -> npt.NDArray[np.int64]:
        """The places in the stream of the tokens of random windows, int64 ``[rows, length + 1]``.

        Where several processes learn together, all draw ``rows`` windows and each gets its share of them.
        PocketspecError if the stream is too short.
        """
        last = len(self.tokens) - length - 1
        if last < 1:
            raise PocketspecError(
                f"{len(self.tokens)} tokens to learn from are too few for windows of {length}; give more text"
            )
        anywhere = rng.integers(0, last, rows)
        aligned = np.minimum(rng.choice(self.starts, rows), last)
        begin = np.where(rng.random(rows) < 0.5, anywhere, aligned)
        return own_share(np.asarray(begin[:, None] + np.arange(length + 1), np.int64))


def read_records(path: Path, kinds: Sequence[str] = ()) -> Iterator[Record]:
    """The records of a JSON-lines file with the fields prompt, response and kind; all kinds when none are named."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            if not kinds or fields["kind"] in kinds:
                yield Record(fields["prompt"], fields["response"], fields["kind"])


def in_turn(records: Iterable[Record]) -> list[Record]:
    """The records with one of every kind first, then a second of every kind, and so on; rare kinds end early."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(record.kind, []).append(record)
    return [record for round_ in itertools.zip_longest(*kinds.values()) for record in round_ if record is not None]


def conversation(record: Record) -> list[dict[str, str]]:
    """The record as chat messages."""
    return [{"role": "user", "content": record.prompt}, {"role": "assistant", "content": record.response}]


def encode(records: Iterable[Record], tokenizer: Any, batch: int = 512) -> Corpus:
    """The token stream of ``records`` under the chat template of ``tokenizer`` (a transformers fast tokenizer)."""
    texts = [tokenizer.apply_chat_template(conversation(record), tokenize=False) for record in records]
    parts: list[IdStream] = []
    for first in range(0, len(texts), batch):
        rows = tokenizer(texts[first : first + batch], add_special_tokens=False)["input_ids"]
        parts += [token_ids(row) for row in rows]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])[:-1]]).astype(np.int64)
    return Corpus(np.concatenate(parts), starts)
