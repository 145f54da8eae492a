"""Where an answer ends: an end token, a stop string, or the most tokens allowed.

Both halves of the rule read the text one token at a time, so an answer ends at the same token however the steps of
speculation divide it. The tokens up to the one that completes a stop string stand; of the text, only what comes before
the string is shown, and text that could still become a stop string is held back until it cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from export.manifest import PocketspecError
from runtime.text import TextStream


@dataclass(frozen=True)
class Cut:
    """How many of a step's tokens stand, and why the answer ends there: "eos", "stop", "length", or None, not yet."""

    keep: int
    reason: str | None = None


class StopText:
    """Text in, text out, up to the first stop string; which one is in ``found``.

    Of several, the one that ends first counts, and of those the one that begins first.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        if any(not string for string in strings):
            raise PocketspecError("a stop string must not be empty")
        self._strings = tuple(strings)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """What of the text so far may be shown now and was not shown before."""
        if self.found is not None:
            return ""
        text = self._held + text
        ends = [(start + len(string), start, string) for string in self._strings if (start := text.find(string)) >= 0]
        if ends:
            _, start, self.found = min(ends)
            self._held = ""
            return text[:start]
        held = self._num_held(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What is still held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, text: str) -> int:
        """The length of the longest end of ``text`` that begins a stop string."""
        longest = max((len(string) for string in self._strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(string.startswith(text[-length:]) for string in self._strings):
                return length
        return 0


class StopRule:
    """The end of one answer. ``cut`` is called once for every step, with the tokens of the answer so far.

    ``stream`` decodes the answer's tokens to look for ``strings``; it belongs to this rule alone.
    """

    def __init__(
        self,
        *,
        eos: Collection[int] = (),
        strings: Sequence[str] = (),
        max_new_tokens: int | None = None,
        stream: TextStream | None = None,
    ) -> None:
        if max_new_tokens is not None and max_new_tokens < 1:
            raise PocketspecError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        if strings and stream is None:
            raise PocketspecError("stop strings need a tokenizer")
        self._eos = frozenset(eos)
        self._text = StopText(strings)
        self._stream = stream if strings else None
        self._max_new_tokens = max_new_tokens

    def cut(self, generated: Sequence[int], fresh: int) -> Cut:
        """How many of the last ``fresh`` tokens of ``generated`` stand.

        With end token 0, the answer [5, 6, 0, 7] whose last 3 are fresh is cut to keep 2: the 6 and the end token.
        """
        before = len(generated) - fresh
        for index in range(fresh):
            if reason := self._ends_at(int(generated[before + index]), before + index + 1):
                return Cut(index + 1, reason)
        return Cut(fresh)

    def _ends_at(self, token: int, length: int) -> str | None:
        if token in self._eos:
            return "eos"
        if self._stream is not None:
            self._text.feed(self._stream.feed([token]))
            if self._text.found is not None:
                return "stop"
        if self._max_new_tokens is not None and length >= self._max_new_tokens:
            return "length"
        return None
