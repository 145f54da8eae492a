"""Which tokens a drafter keeps the logits of: the most frequent ones of a text (FR-Spec, arXiv 2502.14856).

A drafter that never proposes a token is as exact as one that proposes it in vain, and a head of a quarter of the rows
is read four times as fast. Frequencies are best counted in texts like the target's answers. Without a text the first
tokens of the tokenizer are kept, which were merged first because they were the most frequent ones of its own training
text. End tokens, tokens of single bytes (of which any text can be made), and the added tokens that the chat template
writes are kept in either case.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.manifest import DraftVocabulary, PocketspecError, Vocabulary
from export.sources.texts import TextError, text_parts
from export.sources.vocabulary import read_json, read_tokens

# GPT-2's characters that stand for bytes, and SentencePiece's names of them.
_BYTE_NAMES = {chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))} | {
    f"<0x{byte:02X}>" for byte in range(256)
}


class DraftVocabularyError(PocketspecError, ValueError):
    """A draft vocabulary that is too small or too large, or a text that cannot be counted."""


@dataclass(frozen=True)
class ChosenTokens:
    """The ascending ``ids`` that keep their logits, what the manifest says of them, and why, if it does not say."""

    ids: tuple[int, ...]
    described: DraftVocabulary
    reason: str = ""

    @property
    def summary(self) -> str:
        """One line for the user."""
        count, cut = f"{len(self.ids):,}", self.described
        if self.reason:
            return f"its head has {count} tokens, {self.reason}"
        if cut.text is None or cut.covered is None:
            return f"its head has the first {count} tokens of the tokenizer; count those of a text with --text"
        return f"its head has the {count} most frequent tokens of {cut.text}, {cut.covered:.1%} of that text"


def choose_tokens(
    name: str, wanted: int, folder: Path | None, vocab_size: int, vocabulary: Vocabulary, texts: Sequence[Path]
) -> ChosenTokens:
    """The ``wanted`` most frequent tokens of ``texts`` for level ``name``, of ``vocab_size`` logits.

    ``folder`` has the tokenizer; without one, the first ids are kept. DraftVocabularyError names what is wrong.
    """
    has_tokens = folder is not None and (folder / "tokenizer.json").is_file()
    known = _CheckpointTokens(folder, vocab_size) if folder is not None and has_tokens else None
    if texts and known is None:
        raise DraftVocabularyError(f"--text cannot be counted for {name}, which has no tokenizer; drop --text")
    entries = np.arange(vocab_size) if known is None else np.array(sorted(known.tokens))
    ends = [token for token in vocabulary.eos_token_ids if 0 <= token < vocab_size]
    kept = np.unique([*ends, *(() if known is None else known.needed())]).astype(np.int64)
    if not max(2, len(kept)) <= wanted < len(entries):
        raise DraftVocabularyError(
            f"--draft-vocab {wanted} for {name}: allowed are {max(2, len(kept)):,} (end tokens, single bytes, tokens of"
            f" the chat template) to {len(entries) - 1:,}, one less than it has"
        )
    counts = np.zeros(vocab_size, np.int64) if known is None else known.count(texts)
    others = np.setdiff1d(entries, kept)
    ranked = others[np.argsort(-counts[others], kind="stable")]  # at a tie the lower id
    ids = np.sort(np.concatenate([kept, ranked[: wanted - len(kept)]]))
    if not texts:
        return ChosenTokens(tuple(ids.tolist()), DraftVocabulary(wanted))
    covered = float(counts[ids].sum() / counts.sum())
    return ChosenTokens(tuple(ids.tolist()), DraftVocabulary(wanted, _names(texts), covered))


class _CheckpointTokens:
    """The tokenizer of a checkpoint folder, and its ``tokens`` below ``vocab_size``, by id."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self._folder, self._vocab_size = folder, vocab_size
        self.tokens = {number: text for number, text in read_tokens(folder).items() if 0 <= number < vocab_size}

    @cached_property
    def _added(self) -> set[str]:
        entries = read_json(self._folder / "tokenizer.json").get("added_tokens", [])
        return {entry["content"] for entry in entries}

    def needed(self) -> Iterator[int]:
        """The tokens of single bytes, and the added ones that the chat template writes."""
        template = json.dumps(read_json(self._folder / "tokenizer_config.json").get("chat_template", ""))
        path = self._folder / "chat_template.jinja"
        template += path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for number, text in self.tokens.items():
            if text in _BYTE_NAMES or (text in self._added and text in template):
                yield number

    def count(self, texts: Iterable[Path]) -> npt.NDArray[np.int64]:
        """How often each token stands in ``texts``, int64 ``[vocab_size]``."""
        from tokenizers import Tokenizer

        inner = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        counts = np.zeros(self._vocab_size, np.int64)
        for path in texts:
            before = int(counts.sum())
            for part in text_parts(path, "--text"):
                ids = np.array(inner.encode(part, add_special_tokens=False).ids, np.int64)
                counts += np.bincount(ids[ids < self._vocab_size], minlength=self._vocab_size)
            if int(counts.sum()) == before:
                raise TextError(f"--text {path} has no text; give one like the target's answers")
        return counts


def _names(texts: Sequence[Path]) -> str:
    """The names of the files, as a manifest can have them."""
    names = ", ".join(path.name for path in texts)[:200]
    return "".join(character if character.isprintable() else "?" for character in names)
