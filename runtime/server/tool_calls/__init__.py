"""The formats in which models call tools, one a file; ``find_format`` chooses by the chat template."""

from __future__ import annotations

from runtime.server.tool_calls.format import ToolFormat
from runtime.server.tool_calls.hermes import Hermes
from runtime.server.tool_calls.llama3 import Llama3
from runtime.server.tool_calls.mistral import Mistral
from runtime.text.chat_template import ChatTemplate

FORMATS: tuple[ToolFormat, ...] = (Hermes(), Mistral(), Llama3())


def find_format(template: ChatTemplate) -> ToolFormat | None:
    """The format that ``template`` asks its model to use; None if it is not known here."""
    return next((each for each in FORMATS if any(map(template.mentions, each.traces))), None)
