"""Encodes text and decodes tokens, as a whole or piece by piece.

Decoding token by token must give the same text as decoding all at once. There are two difficulties. A character may
span several tokens, so an incomplete character waits. And SentencePiece tokenizers drop the space before their first
token, so tokens are decoded after those shown last, whose text is then cut off.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import tokenizers

from export.manifest import PocketspecError
from export.untrusted import leaving_links
from runtime.process.allocator import give_back
from runtime.text.chat_template import ChatTemplate
from runtime.text.special_cuts import Cuts
from runtime.text.template_data import NO_INPUTS, Message, TemplateInputs
from runtime.text.template_files import read_chat_template
from runtime.text.token_bytes import TokenBytes

# What a decoder writes for bytes that are not a character, or not yet one.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_NEWLINE = 10
# Text that hardly ever merges with the text after it.
_FRONT = "x"
# The largest tokenizers, with 260,000 entries, have 35 MB.
_MOST_BYTES = 512 << 20


class TokenizerError(PocketspecError, ValueError):
    """A tokenizer file that is missing or cannot be read, or a prompt that cannot be encoded."""


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Converts errors of the tokenizers library into TokenizerError, which says ``what`` failed.

    The library raises plain Exception, and "PanicException", which is none, where its own code fails.
    """
    try:
        yield
    except (PocketspecError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TokenizerError(f"{what} ({reason}); export the bundle again") from None


class Tokenizer:
    """The tokenizer of a bundle or checkpoint and, when it has one, its chat template."""

    reads_text = True

    def __init__(self, inner: tokenizers.Tokenizer, template: ChatTemplate | None = None) -> None:
        self._inner = inner
        # Applied by hand: it trims the offsets of tokens in a text, and copies all of them.
        self._before, self._behind = _tokens_around(inner)
        inner.post_processor = None
        self.template = template
        self.byte_tokens = _byte_tokens(inner)
        self._cuts = Cuts(inner)
        self._bytes: TokenBytes | None = None

    @classmethod
    def open(cls, folder: Path) -> Tokenizer:
        """The tokenizer in ``folder/tokenizer.json`` with the chat template beside it."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(
                f"no tokenizer.json in {folder}; save one there with transformers: "
                "AutoTokenizer...save_pretrained(folder)"
            )
        if any(leaving_links(folder, [path.name])):
            raise TokenizerError(f"{path} is a link that leaves its folder; put the file itself there")
        if path.stat().st_size > _MOST_BYTES:
            raise TokenizerError(f"{path} has more than {_MOST_BYTES:,} bytes; no tokenizer has so many")
        with _refusals(f"{path} is not a tokenizer"):
            inner = tokenizers.Tokenizer.from_file(str(path))
            inner.no_truncation()
            inner.no_padding()
            give_back()  # parsing leaves as much free memory behind as it keeps
            return cls(inner, read_chat_template(folder))

    @property
    def entries(self) -> int:
        """The number of tokens, added ones included."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens, which decoded text leaves out, and their ids."""
        added = self._inner.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of ``text``; ``add_special_tokens`` adds those that belong around a text, such as a begin token."""
        ids = self._encoding(text).ids
        return [*self._before, *ids, *self._behind] if add_special_tokens else ids

    def encode_rest(self, text: str, start: int, before: Sequence[int] = ()) -> list[int]:
        """The ids in ``text`` after its first ``start`` characters, which have the ids ``before``.

        If a token spans ``start``, the part of it after ``start`` is encoded separately, unless that token is already
        the last of ``before``, like one that absorbs the line break after it.
        """
        place = self._cuts.last(text, start, before)
        text, start = text[place:], start - place
        encoding = self._encoding(text)
        ids, offsets = encoding.ids, encoding.offsets
        first = next((place for place in range(len(offsets), 0, -1) if offsets[place - 1][0] < start), 0)
        end = offsets[first - 1][1] if first else 0
        is_cut = end > start and ids[first - 1] not in before[-1:]
        return [*(self.encode_behind(text[start:end]) if is_cut else []), *ids[first:]]

    def is_between_tokens(self, text: str, place: int) -> bool:
        """Whether no token of ``text`` spans ``place``, a number of characters."""
        return not any(start < place < end for start, end in self._encoding(text).offsets)

    def encode_behind(self, text: str) -> list[int]:
        """The ids of ``text`` after other text: without the space that some tokenizers put in front."""
        front = self.encode(_FRONT, add_special_tokens=False)
        whole = self.encode(_FRONT + text, add_special_tokens=False)
        is_split = whole[: len(front)] == front
        return whole[len(front) :] if is_split else self.encode(text, add_special_tokens=False)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        """The tokens of ``text`` with their offsets, without special ones around it."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"the prompt is not valid Unicode text: {error.reason}") from None
        with _refusals("the tokenizer cannot encode the prompt"):
            # Of the library's methods only this one releases the interpreter's lock: other threads run meanwhile.
            return self._inner.encode_batch([text], add_special_tokens=False)[0]

    def encode_chat(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> list[int]:
        """The ids of ``messages`` in the chat template, up to where the assistant begins to speak."""
        return self.encode(self.render_chat(messages, inputs), add_special_tokens=False)

    def render_chat(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> str:
        """The text of ``messages`` in the chat template, up to where the assistant begins to speak."""
        if self.template is None:
            raise TokenizerError("this model has no chat template; pass one text as the prompt, or use --raw")
        return self.template.render(messages, inputs)

    def token(self, token: int) -> str:
        """One entry of the vocabulary as it is stored; for display."""
        return self._inner.id_to_token(token) or f"<{token}>"

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for, in UTF-8; those of its name if it is special, none without an entry.

        They may be a part of a character. Together they are the text, but for a space in front that a tokenizer adds.
        """
        if self._bytes is None:
            self._bytes = TokenBytes(self._inner, self.byte_tokens)
        return self._bytes.find(token)

    def decode(self, tokens: Sequence[int], after: Sequence[int] = ()) -> str:
        """The text of ``tokens`` after the tokens ``after``, without special tokens."""
        stream = TextStream(self, after)
        return stream.feed(tokens) + stream.flush()

    def decode_window(self, tokens: Sequence[int]) -> str:
        """The library's decoding of ``tokens``, without special tokens; ids without an entry are ignored."""
        with _refusals("the tokenizer cannot decode the answer"):
            return self._inner.decode(list(tokens), skip_special_tokens=True)


class TextStream:
    """Converts tokens to text in pieces: what ``feed`` and ``flush`` return adds up to the text of all tokens.

    A piece never ends within a character. ``after`` are the tokens before the first one fed: their text is not
    returned, but it decides whether the first piece begins with a space.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        # The tokens shown last, then those that wait; the first `_seen` characters of the window's text have been
        # shown.
        self._window: list[int] = []
        self._num_shown = 0
        self._seen = 0
        self.feed(after)

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that is complete after ``tokens``."""
        values = self._tokenizer.byte_tokens
        if not values:
            return self._feed_text(list(tokens))
        pieces = []
        for is_byte, run in groupby(tokens, key=values.__contains__):
            part = list(run)
            pieces.append(self._feed_bytes([values[token] for token in part]) if is_byte else self._feed_text(part))
        return "".join(pieces)

    def flush(self) -> str:
        """The text that still waits, with incomplete characters replaced: the end of the text."""
        return self._release(self._tokenizer.decode_window(self._window)) + self._utf8.decode(b"", final=True)

    def _feed_text(self, tokens: list[int]) -> str:
        if not tokens:
            return ""
        broken = self._utf8.decode(b"", final=True)
        self._window.extend(tokens)
        text = self._tokenizer.decode_window(self._window)
        return broken if text.endswith(_REPLACEMENT) else broken + self._release(text)

    def _feed_bytes(self, values: list[int]) -> str:
        """Decodes byte tokens here, since the library replaces a whole run of bytes for one wrong byte."""
        waiting = self._release(self._tokenizer.decode_window(self._window))
        text = self._utf8.decode(bytes(values))
        newline = next(token for token, value in self._tokenizer.byte_tokens.items() if value == _NEWLINE)
        self._window, self._num_shown, self._seen = [newline], 1, 1
        return waiting + text

    def _release(self, text: str) -> str:
        """Returns all of the window's ``text``; tokens that add nothing visible stay in the window."""
        piece = text[self._seen :]
        if piece:
            self._window = self._window[self._num_shown :]
            self._num_shown = len(self._window)
            self._seen = len(self._tokenizer.decode_window(self._window))
        return piece


def _tokens_around(inner: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that belong before and behind a text, found with a text of one token."""
    if inner.post_processor is None:
        return [], []
    text = tokenizers.Tokenizer(tokenizers.models.WordLevel({_FRONT: 0}, _FRONT)).encode(_FRONT)
    around = inner.post_processor.process(text, None, True)
    place = around.special_tokens_mask.index(0)
    return around.ids[:place], around.ids[place + 1 :]


def _byte_tokens(inner: tokenizers.Tokenizer) -> dict[int, int]:
    """Bytes by the ids of the tokens ``<0x00>`` to ``<0xFF>``, if the tokenizer falls back to bytes."""
    if not getattr(inner.model, "byte_fallback", False):
        return {}
    ids = {token: value for value in range(256) if (token := inner.token_to_id(f"<0x{value:02X}>")) is not None}
    newline = [token for token, value in ids.items() if value == _NEWLINE]
    return ids if inner.decode(newline) == "\n" else {}
