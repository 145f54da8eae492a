"""Llama 3.1 and later: the whole answer is ``{"name": ..., "parameters": {...}}``, or several with ``;`` between.

Tools that these models know from their training are called as ``<|python_tag|>brave_search.call(query="cats")``.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from runtime.server.tool_calls.format import ToolCall, read_call

_TAG = "<|python_tag|>"


class Llama3:
    """See ``ToolFormat``."""

    name = "llama3"
    traces = (_TAG, "Environment: ipython", "<|start_header_id|>ipython")
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
        rest = text.removeprefix(_TAG)
        if rest != text and (known := _known_call(rest)) is not None:
            return [known]
        calls = [read_call(value, ("parameters", "arguments")) for value in _objects(rest)]
        return [] if None in calls else [call for call in calls if call is not None]


def _known_call(text: str) -> ToolCall | None:
    """The call in ``name.call(argument=value, ...)``, whose values are literals; None if ``text`` is something else."""
    try:
        match ast.parse(text.strip(), mode="eval").body:
            case ast.Call(ast.Attribute(ast.Name(name), "call"), [], keywords):
                arguments = {each.arg: ast.literal_eval(each.value) for each in keywords}
                return None if None in arguments else ToolCall(name, json.dumps(arguments, ensure_ascii=False))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # whatever the model wrote
        pass
    return None


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
