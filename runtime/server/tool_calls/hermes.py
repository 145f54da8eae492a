"""Hermes and Qwen: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, any number of them."""

from __future__ import annotations

from runtime.server.tool_calls.format import ToolCall, end_of_json, parse_json, read_call

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    """See ``ToolFormat``."""

    name = "hermes"
    traces = (_OPEN,)
    opens = (_OPEN,)
    opens_answer: tuple[str, ...] = ()
    visible_tokens = (_OPEN, _CLOSE)
    around = ((_OPEN, "\n"), ("\n", _CLOSE))
    arguments_key = "arguments"

    def find_end(self, text: str) -> int | None:
        """Behind the closing mark, the first that is no part of an argument's text."""
        place = text.find(_CLOSE, len(_OPEN) + end_of_json(text[len(_OPEN) :]))
        return None if place < 0 else place + len(_CLOSE)

    def parse(self, text: str) -> list[ToolCall]:
        """One call; the closing mark may be missing at the end of an answer."""
        call = read_call(parse_json(text.removeprefix(_OPEN).removesuffix(_CLOSE)))
        return [] if call is None else [call]
