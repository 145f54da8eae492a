"""What chat templates write for a tool call is read as that call, in the formats of Qwen, Llama and Mistral."""

from __future__ import annotations

import pytest

from runtime.server.messages import template_messages, template_tools
from runtime.server.replies import tool_call
from runtime.server.requests.chat import ChatRequest
from runtime.server.segments import Segmenter
from runtime.server.tool_calls import find_format
from runtime.server.tool_calls.format import ToolCall
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import make_inputs
from tests.runtime.text.template_styles import STYLES

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
ENDS = ("</s>", "<|im_end|>", "<|eot_id|>")  # which an answer's text does not have
# As published for Mistral 7B v0.3, with what is not about tools left out.
MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {%- if tools is not none %}{{- "[AVAILABLE_TOOLS] " + tools | tojson + "[/AVAILABLE_TOOLS]" }}{%- endif %}
        {{- "[INST] " + message.content + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function | tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id | length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' + message.tool_call_id + '"}' }}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {"hermes": STYLES["qwen3"], "llama3": STYLES["llama3"], "mistral": MISTRAL}
CALL = ToolCall("add", '{"a": 1, "text": "Ä \\"quoted\\" </b>"}')
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_that_a_template_writes_is_read(name: str) -> None:
    template = ChatTemplate(TEMPLATES[name], SPECIAL, name)
    call = tool_call(CALL)
    messages = [
        {"role": "user", "content": "Add one."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "the result", "tool_call_id": call["id"]},
    ]
    asked = ChatRequest.model_validate({"messages": messages, "tools": [TOOL]})
    inputs, turns = make_inputs({}, template_tools(asked.tools or [])), template_messages(asked.messages)
    before, after, whole = (template.render(turns[:end], inputs, add_generation_prompt=end == 1) for end in (1, 2, 3))
    assert after.startswith(before)
    assert "the result" in whole[len(after) :]

    found = find_format(template)
    assert found is not None
    assert found.name == name
    written = after[len(before) :].strip()
    for end in ENDS:
        written = written.removesuffix(end)
    segmenter = Segmenter(tools=found)
    segments = [piece for character in written for piece in segmenter.feed(character)] + segmenter.flush()
    assert [made for segment in segments for made in segment.calls] == [CALL]
