"""Ends answers: at an end token, at a stop string, or at the maximum of tokens.

Both parts of the rule read the text token by token, so an answer ends at the same token for any division into steps.
Tokens up to the one that completes a stop string stand. Only text before the string is shown, and text that could still
become a stop string is held back until it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from export.manifest import PocketspecError
from runtime.arguments import as_whole
from runtime.text.tokenizer import TextStream, Tokenizer

# The first of 1,024 lone surrogates; the other half of them stands for bytes that are not text (PEP 383).
_FIRST_MARK = 0xD800


@dataclass(frozen=True)
class Cut:
    """How many of a step's tokens stand, and why the answer ends: "eos", "stop", "length", or None if not."""

    keep: int
    reason: str | None = None


class StopText:
    """Passes text on up to the first stop string; ``found`` is the string.

    If several occur, the one that ends first counts, and of those the one that begins first. ``hidden`` characters are
    searched but not shown.
    """

    def __init__(self, strings: Sequence[str] = (), hidden: str = "") -> None:
        self._strings = _checked(strings)
        self._hidden = str.maketrans("", "", hidden)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Adds text; returns what may be shown now and has not been shown before."""
        return self._search(text).translate(self._hidden)

    def _search(self, text: str) -> str:
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
        """The text that is still held back, when no more follows."""
        held, self._held = self._held, ""
        return held.translate(self._hidden)

    def _num_held(self, text: str) -> int:
        """The length of the longest end of ``text`` that begins a stop string."""
        longest = max((len(string) for string in self._strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(string.startswith(text[-length:]) for string in self._strings):
                return length
        return 0


class Stops:
    """The stop strings of one answer; ``given`` is one string, several, or None.

    Special tokens have no text, but for those that ``visible`` names. So a stop string that names one is searched for
    twice: as it is, and with a mark in place of each special token. Marks are lone surrogates, which do not occur in
    text.
    """

    def __init__(self, tokenizer: Tokenizer, given: str | Sequence[str] | None, visible: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        strings = _checked([given] if isinstance(given, str) else () if given is None else given)
        for string in strings:
            if any("\ud800" <= character <= "\udfff" for character in string):
                raise PocketspecError(f"a stop string is {string!r}, which is not valid Unicode text")
        special = tokenizer.special_tokens if strings or visible else {}
        named = sorted((text for text in special if any(text in string for string in strings)), key=len, reverse=True)
        marks = {text: chr(_FIRST_MARK + number) for number, text in enumerate(named)}
        shown = {special[text]: text for text in visible if text in special}
        self._marks = shown | {special[text]: mark for text, mark in marks.items()}
        self._hidden = "".join(marks.values())
        pattern = "|".join(map(re.escape, named))
        marked = [re.sub(pattern, lambda found: marks[found[0]], string) for string in strings] if named else []
        self.strings = tuple(dict.fromkeys((*strings, *marked)))

    def stream(self, after: Sequence[int] = ()) -> TextStream:
        """A stream for the text of tokens that follow ``after``, with the marks."""
        return _MarkedStream(self._tokenizer, after, self._marks)

    def text(self) -> StopText:
        """Ends that text at a stop string, and removes the marks."""
        return StopText(self.strings, self._hidden)


class _MarkedStream(TextStream):
    """A ``TextStream`` that writes something for some tokens without text: a mark, or their own names."""

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int], marks: Mapping[int, str]) -> None:
        self._marks = marks
        super().__init__(tokenizer, after)

    def feed(self, tokens: Iterable[int]) -> str:
        """See ``TextStream``."""
        if not self._marks:
            return super().feed(tokens)
        return "".join(super(_MarkedStream, self).feed([token]) + self._marks.get(token, "") for token in tokens)


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
        most = None if max_new_tokens is None else as_whole(max_new_tokens)
        if max_new_tokens is not None and (most is None or most < 1):
            allowed = "a whole number" if most is None else "at least 1"
            raise PocketspecError(f"max_new_tokens is {max_new_tokens!r}; it must be {allowed}")
        if strings and stream is None:
            raise PocketspecError("stop strings need a tokenizer")
        self._eos = frozenset(eos)
        self._text = StopText(strings)
        self._stream = stream if strings else None
        self._max_new_tokens = most

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


def _checked(strings: Sequence[str]) -> tuple[str, ...]:
    """The strings; PocketspecError if one cannot occur in a text."""
    if isinstance(strings, str | bytes) or not isinstance(strings, Sequence):
        raise PocketspecError(f"stop is {strings!r}; it must be a text, or a list of texts")
    for string in strings:
        if not isinstance(string, str):
            raise PocketspecError(f"a stop string is {string!r}; it must be a text")
        if not string:
            raise PocketspecError("a stop string must not be empty")
    return tuple(strings)
