"""Text to tokens and back, piece by piece.

Decoding token by token must give what decoding everything at once gives. Two things stand in the way. A character may
lie in several tokens, so text that ends in half a character waits. And a tokenizer in SentencePiece's manner drops the
space in front of its first token, so tokens are decoded behind the ones shown last, and the text of those is cut off.
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

# What a decoder puts in place of bytes that are no character, or not one yet.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_NEWLINE = 10
# Text that merges with little of what may follow it.
_FRONT = "x"
# The largest tokenizers, of 260,000 entries, have 35 MB.
_MOST_BYTES = 512 << 20


class TokenizerError(PocketspecError, ValueError):
    """A tokenizer file that is missing or unreadable, or a prompt that cannot be encoded."""


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turns errors of the tokenizers library into one of ours that says ``what`` went wrong.

    It raises bare Exception, and where its own code fails, something beside all exceptions ("PanicException").
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
        # Applied by hand, for it trims the offsets that say where tokens lie in a text.
        self._around, inner.post_processor = inner.post_processor, None
        self.template = template
        self.byte_tokens = _byte_tokens(inner)
        self._cuts = Cuts(inner)

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
            give_back()  # parsing leaves as much behind as it keeps
            return cls(inner, read_chat_template(folder))

    @property
    def entries(self) -> int:
        """The number of tokens, added ones included."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, int]:
        """What special tokens are called, and their ids: decoded text leaves them out."""
        added = self._inner.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of ``text``; with ``add_special_tokens``, what the tokenizer puts around a text (a begin token)."""
        encoding = self._encoding(text)
        if add_special_tokens and self._around is not None:
            encoding = self._around.process(encoding, None, True)
        return list(encoding.ids)

    def encode_rest(self, text: str, start: int, before: Sequence[int] = ()) -> list[int]:
        """The ids that the whole ``text`` has behind its first ``start`` characters, which have the ids ``before``.

        Where one of its tokens lies on both sides, the part of it behind ``start`` gets ids of its own; but none where
        the same token stands before already, as one that swallows the line break behind it.
        """
        place = self._cuts.last(text, start, before)
        text, start = text[place:], start - place
        encoding = self._encoding(text)
        ids, offsets = encoding.ids, encoding.offsets
        first = next((place for place in range(len(offsets), 0, -1) if offsets[place - 1][0] < start), 0)
        end = offsets[first - 1][1] if first else 0
        is_cut = end > start and ids[first - 1] not in before[-1:]
        return [*(self.encode_behind(text[start:end]) if is_cut else []), *ids[first:]]

    def encode_behind(self, text: str) -> list[int]:
        """The ids of ``text`` where other text comes before it: without the space that some tokenizers put in front."""
        front = self.encode(_FRONT, add_special_tokens=False)
        whole = self.encode(_FRONT + text, add_special_tokens=False)
        is_split = whole[: len(front)] == front
        return whole[len(front) :] if is_split else self.encode(text, add_special_tokens=False)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        """Tokens of ``text`` with where they lie in it, without special ones around it."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"the prompt is not valid Unicode text: {error.reason}") from None
        with _refusals("the tokenizer cannot encode the prompt"):
            return self._inner.encode(text, add_special_tokens=False)

    def encode_chat(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> list[int]:
        """The ids of ``messages`` in the chat template, up to where the assistant begins to speak."""
        return self.encode(self.render_chat(messages, inputs), add_special_tokens=False)

    def render_chat(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> str:
        """The text of ``messages`` in the chat template, up to where the assistant begins to speak."""
        if self.template is None:
            raise TokenizerError("this model has no chat template; pass one text as the prompt, or use --raw")
        return self.template.render(messages, inputs)

    def token(self, token: int) -> str:
        """One entry of the vocabulary as it is written there; for display."""
        return self._inner.id_to_token(token) or f"<{token}>"

    def decode(self, tokens: Sequence[int], after: Sequence[int] = ()) -> str:
        """The text of ``tokens`` behind ``after``, special tokens left out."""
        stream = TextStream(self, after)
        return stream.feed(tokens) + stream.flush()

    def decode_window(self, tokens: Sequence[int]) -> str:
        """The library's own decoding of ``tokens``, special tokens left out, ids without an entry ignored."""
        with _refusals("the tokenizer cannot decode the answer"):
            return self._inner.decode(list(tokens), skip_special_tokens=True)


class TextStream:
    """Tokens in, text out: what ``feed`` and ``flush`` return, put together, is the text of all tokens fed.

    Nothing ends in half a character. ``after`` are the tokens before the first one fed: their text is not returned,
    but whether the first piece begins with a space depends on them.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        # The tokens shown last, then those that wait; of the window's text, the first `_seen` characters were shown.
        self._window: list[int] = []
        self._num_shown = 0
        self._seen = 0
        self.feed(after)

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that ``tokens`` complete."""
        values = self._tokenizer.byte_tokens
        if not values:
            return self._feed_text(list(tokens))
        pieces = []
        for is_byte, run in groupby(tokens, key=values.__contains__):
            part = list(run)
            pieces.append(self._feed_bytes([values[token] for token in part]) if is_byte else self._feed_text(part))
        return "".join(pieces)

    def flush(self) -> str:
        """What still waited, half characters replaced: the end of the text."""
        return self._release(self._tokenizer.decode_window(self._window)) + self._utf8.decode(b"", final=True)

    def _feed_text(self, tokens: list[int]) -> str:
        if not tokens:
            return ""
        broken = self._utf8.decode(b"", final=True)
        self._window.extend(tokens)
        text = self._tokenizer.decode_window(self._window)
        return broken if text.endswith(_REPLACEMENT) else broken + self._release(text)

    def _feed_bytes(self, values: list[int]) -> str:
        """Byte tokens make characters here and not in the library, which replaces a whole run for one wrong byte."""
        waiting = self._release(self._tokenizer.decode_window(self._window))
        text = self._utf8.decode(bytes(values))
        newline = next(token for token, value in self._tokenizer.byte_tokens.items() if value == _NEWLINE)
        self._window, self._num_shown, self._seen = [newline], 1, 1
        return waiting + text

    def _release(self, text: str) -> str:
        """Shows all of the window's ``text``; tokens that add nothing visible stay in the window."""
        piece = text[self._seen :]
        if piece:
            self._window = self._window[self._num_shown :]
            self._num_shown = len(self._window)
            self._seen = len(self._tokenizer.decode_window(self._window))
        return piece


def _byte_tokens(inner: tokenizers.Tokenizer) -> dict[int, int]:
    """Ids of the tokens ``<0x00>`` to ``<0xFF>`` to their byte, when the tokenizer falls back to bytes."""
    if not getattr(inner.model, "byte_fallback", False):
        return {}
    ids = {token: value for value in range(256) if (token := inner.token_to_id(f"<0x{value:02X}>")) is not None}
    newline = [token for token, value in ids.items() if value == _NEWLINE]
    return ids if inner.decode(newline) == "\n" else {}
