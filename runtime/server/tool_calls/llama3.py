"""Llama 3.1 and later: the whole answer is ``{"name": ..., "parameters": {...}}``, or several with ``;`` between."""

from __future__ import annotations

import json
from typing import Any

from runtime.server.tool_calls.format import ToolCall, read_call

_TAG = "<|python_tag|>"


class Llama3:
    """See ``ToolFormat``."""

    name = "llama3"
    traces = (_TAG, "Environment: ipython")
    opens = (_TAG,)
    opens_answer = ("{",)
    visible_tokens = (_TAG,)
    around: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    arguments_key = "parameters"

    def find_end(self, text: str) -> int | None:
        """Only the end of the answer ends calls."""
        return None

    def parse(self, text: str) -> list[ToolCall]:
        """The calls, if the text is nothing else."""
        calls = [read_call(value, ("parameters", "arguments")) for value in _objects(text.removeprefix(_TAG))]
        return [] if None in calls else [call for call in calls if call is not None]


def _objects(text: str) -> list[Any]:
    """The JSON values in ``text`` with semicolons between them; None in place of what is not JSON."""
    decoder, values, text = json.JSONDecoder(), list[Any](), text.strip()
    while text:
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return [None]
        values.append(value)
        text = text[end:].lstrip("; \t\r\n")
    return values
