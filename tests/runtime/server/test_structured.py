"""Answers of a given form, calls of tools and reasoning, by the real OpenAI client."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from memory.plan import OverBudgetError
from runtime.server.constraining import constraint_of
from runtime.server.errors import ApiError
from runtime.server.requests.chat import ChatRequest
from tests.runtime.server.conftest import Post

if TYPE_CHECKING:
    import openai

MESSAGES: list[Any] = [{"role": "user", "content": "Who is Ann?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "find", "description": "Finds someone.", "parameters": PERSON}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "additionalProperties": False}}},
]
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_json_is_of_the_schema(client: openai.OpenAI, temperature: float) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format=SCHEMA, temperature=temperature, seed=3, max_tokens=200
    )
    assert reply.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(reply.choices[0].message.content or ""), PERSON)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find"}}])
def test_a_tool_is_called_and_its_result_goes_back(client: openai.OpenAI, choice: Any) -> None:
    settings: Any = {"model": "tools", "tools": TOOLS, "max_tokens": 200}
    reply = client.chat.completions.create(**settings, messages=MESSAGES, tool_choice=choice)
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
    assert choice == "required" or call.function.name == "find"

    chunks = list(client.chat.completions.create(**settings, messages=MESSAGES, tool_choice=choice, stream=True))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    assert [(part.index, part.function.arguments) for part in parts if part.function] == [(0, call.function.arguments)]

    result = {"role": "tool", "tool_call_id": call.id, "content": "found"}
    after = client.chat.completions.create(
        **(settings | {"max_tokens": 5}), messages=[*MESSAGES, message.model_dump(), result]
    )
    assert after.choices[0].message.role == "assistant"


def test_reasoning_is_apart_from_content(client: openai.OpenAI) -> None:
    """The template opens the reasoning, which this model never ends."""
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    reply = client.chat.completions.create(model="tools", messages=MESSAGES, max_tokens=9, extra_body=thinking)
    message = reply.choices[0].message
    assert message.content == ""
    assert message.model_dump()["reasoning_content"]
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 9


def test_log_probabilities_are_of_the_tokens_of_the_text(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**settings).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(each.token for each in choice.logprobs.content) == choice.message.content
    for each in choice.logprobs.content:
        assert (len(each.top_logprobs), each.top_logprobs[0].token) == (3, each.token)  # it is greedy
        assert each.logprob == each.top_logprobs[0].logprob <= 0
    streamed = []
    for chunk in client.chat.completions.create(**settings, stream=True):
        found = chunk.choices[0].logprobs
        streamed += [] if found is None else found.content or []
    assert streamed == choice.logprobs.content
    text = client.completions.create(model="tiny", prompt="Once", max_tokens=9, logprobs=2).choices[0]
    assert text.logprobs is not None
    assert "".join(text.logprobs.tokens or ()) == text.text
    assert [text.text[at : at + 1] for at in text.logprobs.text_offset or ()] == text.logprobs.tokens


def test_responses_say_what_chats_say(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "system", "content": "Be kind."}, *MESSAGES], max_tokens=9
    )
    settings: Any = {"model": "tiny", "input": MESSAGES, "instructions": "Be kind.", "max_output_tokens": 9}
    reply = client.responses.create(**settings)
    assert reply.output_text == chat.choices[0].message.content
    assert reply.status == "incomplete"
    assert reply.usage is not None
    assert reply.usage.output_tokens == 9
    events = list(client.responses.create(**settings, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == reply.output_text
    end = events[-1]
    assert end.type == "response.incomplete"
    assert end.response.output_text == reply.output_text
    again = client.responses.create(model="tiny", input=[*MESSAGES, *reply.output, *MESSAGES], max_output_tokens=2)
    assert again.output_text


def test_responses_follow_a_schema_and_call_tools(client: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}}
    reply = client.responses.create(model="tiny", input="Who is Ann?", text=form, max_output_tokens=200)
    assert reply.status == "completed"
    jsonschema.validate(json.loads(reply.output_text), PERSON)
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    asked: Any = {"model": "tools", "input": "Find Ann.", "tools": tools, "tool_choice": "required"}
    (call,) = client.responses.create(**asked).output
    assert call.type == "function_call"
    events = [event.type for event in client.responses.create(**asked, stream=True)]
    assert events[2:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "found"}
    after: Any = {**asked, "tool_choice": "none", "max_output_tokens": 3}
    assert client.responses.create(**{**after, "input": [*MESSAGES, call, output]}).output_text


WRONG = {"name": "x", "schema": {"type": "colour"}}
OTHER = {"type": "function", "function": {"name": "x"}}
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("chat/completions", {"response_format": {"type": "json_schema", "json_schema": WRONG}}, "response_format", "type"),
    ("chat/completions", {"response_format": {"type": "grammar"}}, "response_format", "grammar"),
    ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "logprobs"),
    ("chat/completions", {"tools": TOOLS, "tool_choice": OTHER}, "tool_choice", "'x'"),
    ("chat/completions", {"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format", "tools"),
    ("responses", {"text": {"format": {"type": "json_schema", **WRONG}}}, "text.format", "type"),
    ("responses", {"previous_response_id": "resp_1"}, "previous_response_id", "stored"),
    ("responses", {"store": True}, "store", "False"),
]


@pytest.mark.parametrize(("path", "change", "param", "words"), BAD, ids=str)
def test_what_cannot_be_done_is_refused_by_name(post: Post, path: str, change: Any, param: str, words: str) -> None:
    said: dict[str, Any] = {"input": "x"} if path == "responses" else {"messages": MESSAGES}
    status, reply = post(f"/{path}", {"model": "tools", **said, **change})
    assert (status, reply["error"]["param"]) == (400, param), reply
    assert words in reply["error"]["message"]


def test_a_form_that_the_budget_has_no_room_for_is_refused_for_now(post: Post) -> None:
    def refuse(constraint: object) -> None:
        raise OverBudgetError("a budget of 9 bytes is needed", 9)

    model: Any = SimpleNamespace(engine=SimpleNamespace(check_constraint=refuse))
    with pytest.raises(ApiError, match="9 bytes") as caught:
        constraint_of(model, ChatRequest(messages=MESSAGES, response_format=SCHEMA), None)
    assert (caught.value.status, caught.value.param) == (503, "response_format")
    status, reply = post("/plan", {"budget_bytes": 1, "model": "tiny"}, "PUT")
    assert (status, reply["error"]["code"]) == (400, "budget_too_small")
