"""The server in a process of its own, used by the real OpenAI client: what the engine says, and nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memory import Request
from runtime.engine import Engine
from tests.runtime.server.conftest import Post
from tests.runtime.server.serving import Server

if TYPE_CHECKING:
    import openai

MESSAGES: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def engine(random_bundle: Path) -> Any:
    with Engine.open(random_bundle, Request(threads=1)) as opened:
        yield opened


def own_text(engine: Engine, prompt: Any, **settings: Any) -> str:
    return "".join(chunk.text for chunk in engine.generate(prompt, **settings))


def test_a_conversation_is_the_engines_own_and_finds_its_prefix(client: openai.OpenAI, engine: Engine) -> None:
    first = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
    text = first.choices[0].message.content
    assert text == own_text(engine, MESSAGES, max_new_tokens=12)
    assert first.choices[0].finish_reason == "length"
    assert first.usage is not None
    assert first.usage.completion_tokens == 12
    assert first.usage.total_tokens == first.usage.prompt_tokens + 12
    longer = [*MESSAGES, first.choices[0].message.model_dump(), {"role": "user", "content": "More"}]
    second = client.chat.completions.create(model="tiny", messages=longer, max_tokens=5)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 1
    timings = second.model_dump()["timings"]
    assert timings["cache_n"] + timings["prompt_n"] == second.usage.prompt_tokens
    assert timings["predicted_n"] == 5


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0, "seed": 7, "extra_body": {"top_k": 20, "min_p": 0.01}}])
def test_a_stream_adds_up_to_the_reply(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    settings: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, **asked}
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_completion_continues_a_text_or_ids(client: openai.OpenAI, engine: Engine) -> None:
    text = own_text(engine, "Once upon", raw=True, max_new_tokens=10, stop="Q")
    ids = engine.encode("Once upon", raw=True)
    for prompt in ("Once upon", ["Once upon"], ids):
        given = client.completions.create(model="tiny", prompt=prompt, max_tokens=10, stop="Q")
        assert given.choices[0].text == text
    pieces = list(client.completions.create(model="tiny", prompt=ids, max_tokens=10, stop=["Q"], stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == text


def test_token_sources_add_up_to_the_text(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=40, stream=True, extra_body={"token_sources": True}
    )
    named = set()
    for chunk in stream:
        choice = chunk.choices[0]
        sources = choice.model_dump().get("token_sources", [])
        assert "".join(each["text"] for each in sources) == (choice.delta.content or "")
        named |= {each["source"] for each in sources}
    assert "target" in named


def test_a_closed_stream_ends_the_answer(client: openai.OpenAI, server: Server) -> None:
    with client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=400, stream=True) as stream:
        events = iter(stream)
        next(events)
    with contextlib.suppress(Exception):  # the client's generator minds being left behind
        list(events)
    after = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=3)
    assert after.usage is not None
    assert after.usage.completion_tokens == 3


def test_models_health_plan_and_metrics(client: openai.OpenAI, server: Server, post: Post) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tools"]
    assert client.models.retrieve("tools").id == "tools"
    import httpx

    assert httpx.get(f"{server.root}/health").json() == {"status": "ok"}
    plan = httpx.get(f"{server.url}/plan", params={"model": "tiny"}).json()
    assert plan["plan"]["bundle"] == "tiny"
    assert plan["needed_bytes"] <= plan["budget_bytes"]
    least = plan["smallest_budget_bytes"]
    status, smaller = post("/plan", {"model": "tiny", "budget_bytes": least}, "PUT")
    assert status == 200
    assert smaller["needed_bytes"] <= least
    status, refused = post("/plan", {"model": "tiny", "budget_bytes": least - 1}, "PUT")
    assert status == 400
    assert refused["error"]["param"] == "budget_bytes"
    assert f"{least:,}" in refused["error"]["message"]
    assert post("/plan", {"model": "tiny", "budget_bytes": plan["budget_bytes"]}, "PUT")[0] == 200
    assert 'pocketspec_generated_tokens_total{model="tiny"}' in httpx.get(f"{server.root}/metrics").text


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
BAD: list[tuple[dict[str, Any], int, str | None]] = [
    ({"n": 2}, 400, "n"),
    ({"logit_bias": {"1": 2}}, 400, "logit_bias"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty"),
    ({"temperature": -1}, 400, "temperature"),
    ({"temperature": 1e-9}, 400, None),
    ({"top_p": "1"}, 400, "top_p"),
    ({"seed": 1 << 64}, 400, "seed"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, 400, "max_tokens"),
    ({"stop": [""]}, 400, "stop[0]"),
    ({"stop": ["a"] * 17}, 400, "stop"),
    ({"stream": 1}, 400, "stream"),
    ({"colour": "blue"}, 400, "colour"),
    ({"model": "gpt-4"}, 404, "model"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, 413, "messages"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}, 400, "messages"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"),
    ({"tool_choice": "auto"}, 400, "tool_choice"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, 400, "chat_template_kwargs.enable_thinking"),
]


@pytest.mark.parametrize(("change", "status", "param"), BAD, ids=str)
def test_a_request_is_refused_by_the_parameters_name(post: Post, change: Any, status: int, param: str | None) -> None:
    found, reply = post("/chat/completions", CHAT | change)
    assert (found, reply["error"]["param"]) == (status, param), reply
    assert reply["error"]["type"] == "invalid_request_error"
    assert "\n" not in reply["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"model": "\xff"}', 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b'{"prompt": NaN}', 400),
        (b"[" * 100_000, 400),
        (b" " * 100_000_000, 413),
        (b'{"prompt": [5' + b",5" * 100_001 + b"]}", 413),
        (b'{"prompt": [' + b"[]," * 50_000 + b"[]]}", 413),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_request_is_refused(post: Post, body: bytes, status: int) -> None:
    found, reply = post("/completions", body)
    assert found == status, reply
    assert "\n" not in reply["error"]["message"]


def test_other_requests_are_refused(post: Post) -> None:
    assert post("/completions", {}, content_type="text/plain")[0] == 415
    assert post("/nothing", {})[0] == 404
    assert post("/completions", {}, "DELETE")[0] == 405


@pytest.mark.parametrize(("path", "param"), [("/chat/completions", "messages"), ("/responses", "input")])
def test_a_conversation_of_too_many_messages_is_refused(post: Post, path: str, param: str) -> None:
    for count, expected in ((2048, 413), (2049, 400)):  # the first one does not fit the context
        status, reply = post(path, {param: [{"role": "user", "content": "x"}] * count})
        assert (status, reply["error"]["param"]) == (expected, param)
    assert "at most 2048" in reply["error"]["message"]


def test_too_many_tools_and_fields_are_refused(post: Post) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    status, reply = post("/chat/completions", CHAT | {"tools": [tool] * 129})
    assert (status, reply["error"]["param"]) == (400, "tools")
    assert "at most 128" in reply["error"]["message"]
    status, reply = post("/chat/completions", CHAT | {f"field{number}": 1 for number in range(101)})
    assert (status, reply["error"]["param"]) == (400, None)
    assert "the body is wrong: It has" in reply["error"]["message"]


def test_an_item_of_no_known_type_is_refused_by_its_place(post: Post) -> None:
    for item in ({"type": "image"}, {"type": ["message"]}, 5):
        status, reply = post("/responses", {"input": [{"role": "user", "content": "x"}, item]})
        assert (status, reply["error"]["param"]) == (400, "input[1]")
        assert "of type message, function_call" in reply["error"]["message"]
