"""A vocabulary as the library wants it: the bytes of every token in a trie, and how bytes are usually tokenized."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

from runtime.constraints.library import load_library
from runtime.constraints.request import ConstraintError
from runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

# Text that JSON strings are made of, up to ten characters of it, up to twenty, and any number: the library looks at all
# tokens of such text at once. With twenty, masks of usual answers whose strings have a maximum length take a third less
# time, for 9 MB at 150,000 tokens.
_SLICES = [rf'[^"\\\x00-\x1F\x7F]{many}' for many in ("{1,10}", "{1,20}", "+")]
# Printable ASCII, which every grammar is made of.
_PRINTABLE = range(32, 127)
# Texts that grammars force, of which the tokens are kept: so many, of at most so many bytes.
_MOST_TOKENIZED, _LONGEST_TOKENIZED = 1024, 256
# The library's mark of a special token; no UTF-8 text has this byte.
_MARK = 0xFF
# A text in which tokenizers show that they drop spaces or mark the inside of words.
_SAMPLE = '{"name": "two words", "numbers": [1, 2.5]}'


class _Spellings(Sequence[bytes]):
    """The bytes of each token, kept as one text, which takes a tenth of the memory of a list."""

    def __init__(self, spelled: Iterable[bytes]) -> None:
        text, stops = bytearray(), array("i", [0])
        for each in spelled:
            text += each
            stops.append(len(text))
        self._text, self._stops = bytes(text), stops

    def __len__(self) -> int:
        return len(self._stops) - 1

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        found = range(len(self))[place]
        if isinstance(found, range):
            return [self[each] for each in found]
        return self._text[self._stops[found] : self._stops[found + 1]]


class _TokenTable:
    """What llguidance's ``TokenizerWrapper`` is made from. Padding ids, special and end tokens have no bytes.

    Calling it tokenizes bytes that a grammar forces, so that they come in the tokens the model is used to.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, ends: Sequence[int]) -> None:
        def spell(token: int) -> bytes:
            spelled = b"" if token in ends else tokenizer.token_bytes(token)
            return b"" if _MARK in spelled else spelled

        self.tokens = _Spellings(map(spell, range(size)))
        self.eos_token_id = ends[0]
        # A grammar that names one of these allows it there; nothing else does.
        self.special_token_ids = [token for token in tokenizer.special_tokens.values() if token < size]
        self._tokenizer = tokenizer
        self._tokenized: dict[bytes, list[int]] = {}
        self.single = {spelled[0]: token for token, spelled in enumerate(self.tokens) if len(spelled) == 1}

    def __call__(self, spelled: bytes) -> list[int]:
        """Tokens of exactly ``spelled``: the tokenizer's own, or else one for every byte that has one.

        Keys and punctuation come again and again, and each time at every token of a draft.
        """
        if len(spelled) > _LONGEST_TOKENIZED:
            return self._tokenize(spelled)
        known = self._tokenized.get(spelled)
        if known is None:
            if len(self._tokenized) >= _MOST_TOKENIZED:
                self._tokenized.clear()
            known = self._tokenized[spelled] = self._tokenize(spelled)
        return known

    def _tokenize(self, spelled: bytes) -> list[int]:
        try:
            tokens = self._tokenizer.encode_behind(spelled.decode())
        except UnicodeDecodeError:
            tokens = []
        if b"".join(map(self._bytes_of, tokens)) == spelled:
            return tokens
        return [self.single[value] for value in spelled if value in self.single]

    def spells(self, text: str) -> bool:
        """Whether the bytes of the tokens of ``text`` are those of ``text``."""
        return b"".join(map(self._bytes_of, self._tokenizer.encode_behind(text))) == text.encode()

    def _bytes_of(self, token: int) -> bytes:
        return self.tokens[token] if token < len(self.tokens) else b""


def make_trie(tokenizer: Tokenizer, size: int, ends: Sequence[int]) -> llguidance.LLTokenizer:
    """The trie of a model with ``size`` logits whose answers end with ``ends``; a second's work for 150,000 tokens.

    ConstraintError for a vocabulary that constraints cannot work with.
    """
    if not tokenizer.reads_text:
        raise ConstraintError("this bundle has no tokenizer.json, so a constraint cannot tell what its tokens say")
    ends = [token for token in ends if token < size]
    if not ends:
        raise ConstraintError("this bundle names no end token, so a constrained answer could not end; export it again")
    library, vocabulary = load_library(), _TokenTable(tokenizer, size, ends)
    missing = [chr(value) for value in _PRINTABLE if value not in vocabulary.single]
    if missing:
        raise ConstraintError(
            f"this bundle's tokenizer has no token for {missing[0]!r} alone and {len(missing) - 1} more printable"
            " characters; a constraint needs all of them"
        )
    if not vocabulary.spells(_SAMPLE):
        raise ConstraintError(
            "the tokens of this bundle's tokenizer do not add up to its texts; a constraint needs that"
        )
    wrapper = library.TokenizerWrapper(vocabulary)
    trie: llguidance.LLTokenizer = library.LLTokenizer(wrapper, n_vocab=size, eos_token=ends, slices=_SLICES)
    return trie
