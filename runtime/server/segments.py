"""The parts of an answer: reasoning, content, tool calls, and what is between them and not shown.

Text is read as it comes. Text that could still become a marker is held back until it cannot. The texts of all segments
together are the text of the answer, so what is known of its characters (who drafted them) stays known of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.server.reasoning import Markers
from runtime.server.tool_calls.format import ToolCall, ToolFormat

Kind = Literal["reasoning", "content", "tool_calls", "hidden"]
_State = Literal["start", "reasoning", "after_reasoning", "content", "tool_calls"]


@dataclass(frozen=True)
class Segment:
    """A piece of one kind; ``calls`` are those that a piece of kind "tool_calls" is the text of."""

    kind: Kind
    text: str
    calls: tuple[ToolCall, ...] = ()


class Segmenter:
    """Divides one answer. ``markers`` None: it has no reasoning; ``inside``: it begins with some. ``tools``: the format
    of its tool calls, None if none are expected."""

    def __init__(self, markers: Markers | None = None, inside: bool = False, tools: ToolFormat | None = None) -> None:
        self._markers, self._tools = markers, tools
        self._state: _State = "start" if markers is not None or tools is not None else "content"
        if inside:
            self._state = "reasoning"
        self._held = ""

    def feed(self, text: str) -> list[Segment]:
        """Adds text; returns the pieces that are certain now."""
        self._held += text
        return self._advance(is_end=False)

    def flush(self) -> list[Segment]:
        """The pieces of the text that was held back, when no more follows."""
        return self._advance(is_end=True)

    def _advance(self, is_end: bool) -> list[Segment]:
        found: list[Segment] = []
        while self._held:
            before = (self._state, len(self._held))
            found += getattr(self, f"_in_{self._state}")(is_end)
            if before == (self._state, len(self._held)):
                break
        return found

    def _cut(self, kind: Kind, end: int) -> list[Segment]:
        """The first ``end`` characters of the text held back, as a piece of ``kind``."""
        text, self._held = self._held[:end], self._held[end:]
        return [Segment(kind, text)] if text else []

    def _in_start(self, is_end: bool) -> list[Segment]:
        """White space, then perhaps reasoning, or a tool call that only counts at the beginning."""
        blank = len(self._held) - len(self._held.lstrip())
        rest = self._held[blank:]
        opening = self._markers.opening if self._markers is not None else None
        if opening is not None and rest.startswith(opening):
            self._state = "reasoning"
            return self._cut("hidden", blank + len(opening))
        if not is_end and (not rest or (opening is not None and opening.startswith(rest))):
            return []
        return self._begin_content(blank, rest)

    def _begin_content(self, blank: int, rest: str) -> list[Segment]:
        self._state = "content"
        if self._tools is not None and rest.startswith(self._tools.opens_answer):
            self._state = "tool_calls"
            return self._cut("hidden", blank)
        return []

    def _in_reasoning(self, is_end: bool) -> list[Segment]:
        assert self._markers is not None
        closing = self._markers.closing
        place = self._held.find(closing)
        if place < 0:
            return self._visible("reasoning", [closing], is_end)
        shown = len(self._held[:place].rstrip())
        pieces = self._cut("reasoning", shown)
        pieces += self._cut("hidden", place - shown + len(closing))
        self._state = "after_reasoning"
        return pieces

    def _in_after_reasoning(self, is_end: bool) -> list[Segment]:
        """The white space between reasoning and content."""
        blank = len(self._held) - len(self._held.lstrip())
        if blank < len(self._held):
            return self._cut("hidden", blank) + self._begin_content(0, self._held)
        return self._cut("hidden", blank) if is_end else []

    def _in_content(self, is_end: bool) -> list[Segment]:
        if self._tools is None:
            return self._cut("content", len(self._held))
        places = [place for marker in self._tools.opens if (place := self._held.find(marker)) >= 0]
        if not places:
            return self._visible("content", self._tools.opens, is_end)
        shown = len(self._held[: min(places)].rstrip())
        self._state = "tool_calls"
        return self._cut("content", shown) + self._cut("hidden", min(places) - shown)

    def _in_tool_calls(self, is_end: bool) -> list[Segment]:
        """Calls up to where they end; text that turns out to be none is content."""
        assert self._tools is not None
        end = len(self._held) if is_end else self._tools.find_end(self._held)
        if end is None:
            return []
        calls = self._tools.parse(self._held[:end])
        (piece,) = self._cut("tool_calls" if calls else "content", end)
        self._state = "content"
        return [Segment(piece.kind, piece.text, tuple(calls))]

    def _visible(self, kind: Kind, markers: Sequence[str], is_end: bool) -> list[Segment]:
        """What cannot belong to one of ``markers``, nor to the white space before one."""
        if is_end:
            return self._cut(kind, len(self._held))
        held = max(_length_of_beginning(self._held, marker) for marker in markers)
        return self._cut(kind, len(self._held[: len(self._held) - held].rstrip()))


def _length_of_beginning(text: str, marker: str) -> int:
    """The length of the longest end of ``text`` that begins ``marker``."""
    longest = min(len(marker) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(marker[:length])), 0)
