"""The parts of an answer, for any division of its text into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.server.reasoning import KNOWN
from runtime.server.segments import Segment, Segmenter
from runtime.server.tool_calls.format import ToolCall, ToolFormat
from runtime.server.tool_calls.hermes import Hermes
from runtime.server.tool_calls.llama3 import Llama3
from runtime.server.tool_calls.mistral import Mistral

THINK = KNOWN[0]
CALL = ToolCall("add", '{"a": 1}')
OTHER = ToolCall("sub", "{}")
HERMES_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'

MARK = ToolCall("add", '{"a": "</tool_call>"}')
CUT = ('<tool_call>{"name": "add", "arguments": {"a": "</tool_call>', list[ToolCall]())

# format, text, content, calls
CASES: list[tuple[ToolFormat | None, str, str, list[ToolCall]]] = [
    (Hermes(), HERMES_CALL, "", [CALL]),
    (Hermes(), f"Let me see.\n\n{HERMES_CALL}\n<tool_call>{{\"name\": \"sub\"}}", "Let me see.", [CALL, OTHER]),
    (Hermes(), "<tool_call>no JSON</tool_call> then", "<tool_call>no JSON</tool_call> then", []),
    (Hermes(), "a <tool_cal", "a <tool_cal", []),
    (Hermes(), '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [CALL]),
    (Hermes(), '<tool_call>{"name": "add", "arguments": {"a": "</tool_call>"}}</tool_call> b', "b", [MARK]),
    (
        Hermes(),
        '<tool_call>{"x": "</tool_call>", "y": [true, -1.5, null], "name": "add", "arguments": {"a": 1}}</tool_call>',
        "",
        [CALL],
    ),
    (Hermes(), '<tool_call>{"a": "\\u00e4", b</tool_call>', '<tool_call>{"a": "\\u00e4", b</tool_call>', []),
    (Hermes(), '<tool_call>\n{"name": "add", "argu', '<tool_call>\n{"name": "add", "argu', []),
    (Hermes(), '<tool_call>{"name": "add", "arguments": {"a": "</tool_call>', *CUT),
    (Hermes(), f"<tool_call>[]</tool_call>{HERMES_CALL}", "<tool_call>[]</tool_call>", [CALL]),
    (Llama3(), '<|python_tag|>add.call(a=1)', "", [CALL]),
    (Llama3(), '<|python_tag|>add.call(a=b)', '<|python_tag|>add.call(a=b)', []),
    (Llama3(), '<|python_tag|>add.call(**{})', '<|python_tag|>add.call(**{})', []),
    (Llama3(), '<|python_tag|>print("Hi")', '<|python_tag|>print("Hi")', []),
    (Llama3(), '{"name": "add", "parameters": {"a": 1', '{"name": "add", "parameters": {"a": 1', []),
    (Llama3(), '{"type": "function", "name": "add", "parameters": {"a": 1}}\n{"name": "sub"}', "", [CALL, OTHER]),
    (Llama3(), '{"name": "add", "parameters": {}} or', '{"name": "add", "parameters": {}} or', []),
    (Mistral(), 'Yes.\n[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]', "Yes.", [CALL]),
    (Mistral(), '[TOOL_CALLS][{"name": "add", "argum', '[TOOL_CALLS][{"name": "add", "argum', []),
    (Mistral(), '[TOOL_CALLS]add[ARGS]{"a": ', '[TOOL_CALLS]add[ARGS]{"a":', []),
    (Mistral(), '[TOOL_CALLS]add[ARGS]no', '[TOOL_CALLS]add[ARGS]no', []),
    (Llama3(), '{"name": "add", "parameters": {"a": 1}}; {"name": "sub", "parameters": {}}', "", [CALL, OTHER]),
    (Llama3(), '<|python_tag|>{"name": "add", "parameters": {"a": 1}}', "", [CALL]),
    (Llama3(), 'The JSON {"name": "add"}', 'The JSON {"name": "add"}', []),
    (Llama3(), '{"answer": 42}', '{"answer": 42}', []),
    (Mistral(), '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}, {"name": "sub"}]', "", [CALL, OTHER]),
    (Mistral(), '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]sub[CALL_ID]x[ARGS]{}', "", [CALL, OTHER]),
    (Mistral(), '[TOOL_CALLS] add{"a": 1}', "", [CALL]),
    (Mistral(), "[TOOL_CALLS]", "[TOOL_CALLS]", []),
    (None, HERMES_CALL, HERMES_CALL, []),
]  # fmt: skip


def divide(segmenter: Segmenter, text: str, cuts: list[int]) -> list[Segment]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    segments = [each for start, end in itertools.pairwise(places) for each in segmenter.feed(text[start:end])]
    return [*segments, *segmenter.flush()]


def joined(segments: list[Segment], kind: str) -> str:
    return "".join(segment.text for segment in segments if segment.kind == kind)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1][:30])
@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_calls_are_found(case: tuple[ToolFormat | None, str, str, list[ToolCall]], cuts: list[int]) -> None:
    tools, text, content, calls = case
    segments = divide(Segmenter(tools=tools), text, cuts)
    assert "".join(segment.text for segment in segments) == text
    assert joined(segments, "content").strip() == content
    assert [call for segment in segments for call in segment.calls] == calls


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 1000), max_size=8), inside=st.booleans())
def test_reasoning_is_apart(cuts: list[int], inside: bool) -> None:
    text = "\nI wonder <b>.\n</think>\n\nYes. <think> is a word"
    segments = divide(Segmenter(THINK, inside), text if inside else f"<think>{text}", cuts)
    assert joined(segments, "reasoning").strip() == "I wonder <b>."
    assert joined(segments, "content") == "Yes. <think> is a word"


@settings(deadline=None, max_examples=40)
@given(st.text("<think>/ \nab{", max_size=30), st.lists(st.integers(0, 30), max_size=5), st.booleans())
def test_no_character_is_lost(text: str, cuts: list[int], inside: bool) -> None:
    segments = divide(Segmenter(THINK, inside, Hermes()), text, cuts)
    assert "".join(segment.text for segment in segments) == text
    whole = divide(Segmenter(THINK, inside, Hermes()), text, [])
    for kind in ("content", "reasoning"):
        assert joined(segments, kind) == joined(whole, kind)


@pytest.mark.parametrize("markers", KNOWN)
def test_an_answer_without_reasoning_is_content(markers: object) -> None:
    segments = divide(Segmenter(THINK), "  Hello", [1, 3])
    assert joined(segments, "content") == "  Hello"
