"""Mistral: ``[TOOL_CALLS][{"name": ..., "arguments": {...}}]``; since 2025 each is ``[TOOL_CALLS]name[ARGS]{...}``."""

from __future__ import annotations

from runtime.server.tool_calls.format import ToolCall, parse_json, read_call

_OPEN, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


class Mistral:
    """See ``ToolFormat``."""

    name = "mistral"
    traces = (_OPEN,)
    opens = (_OPEN,)
    opens_answer: tuple[str, ...] = ()
    visible_tokens = (_OPEN, _ARGUMENTS, _ID)
    around = ((_OPEN, "["), ("]",))
    arguments_key = "arguments"

    def find_end(self, text: str) -> int | None:
        """Only the end of the answer ends calls."""
        return None

    def parse(self, text: str) -> list[ToolCall]:
        """The calls, if the text is nothing else."""
        parts = [part.strip() for part in text.split(_OPEN)[1:]]
        calls = [call for part in parts for call in _read(part)]
        return [] if None in calls else [call for call in calls if call is not None]


def _read(part: str) -> list[ToolCall | None]:
    if part.startswith("["):
        value = parse_json(part)
        return [read_call(item) for item in value] if isinstance(value, list) else [None]
    head, mark, arguments = part.partition(_ARGUMENTS)
    if not mark:  # [TOOL_CALLS]name{...}
        head, brace, rest = part.partition("{")
        arguments = brace + rest
    name = head.partition(_ID)[0].strip()
    return [read_call({"name": name, "arguments": parse_json(arguments)} if name else None)]
