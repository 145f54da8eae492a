"""``POST /v1/responses``: the newer form of a chat, whose output is a list of items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from runtime.server.errors import ApiError
from runtime.server.json_parts import dumps
from runtime.server.prepare import Prepared, prepare_chat
from runtime.server.replies import tool_call
from runtime.server.requests.responses import ORIGINS, ResponsesRequest, as_chat
from runtime.server.response_objects import (
    OutputItem,
    Response,
    begin_response,
    call_item,
    end_response,
    message_item,
    new_id,
    output_text,
    reasoning_item,
)
from runtime.server.served import ServedModel
from runtime.server.service import Running, Service
from runtime.server.streams import EventStream, event, whole_reply
from runtime.server.tool_calls.format import ToolCall
from runtime.server.unread import Piece


async def responses(request: Request) -> HttpResponse:
    """Answers a conversation, at once or in a stream."""
    service = Service.of(request)
    asked, prepared, share = await service.prepare(request, ResponsesRequest, _prepare)
    response, output = begin_response(prepared.model.name, asked), ResponseOutput()
    running = Running(service, prepared, share, repeated_bytes=len(dumps(response).encode()))
    if asked.stream:
        return EventStream(_events(running, response, output), running)
    return await whole_reply(request, running, _whole(running, response, output))


async def _whole(running: Running, response: Response, output: ResponseOutput) -> Response:
    async for piece in running.reader.pieces():
        for _ in output.add(piece):
            pass
    for _ in output.close():
        pass
    return end_response(response, output.items, running.reader.collected)


def _prepare(model: ServedModel, asked: ResponsesRequest, host: str) -> Prepared:
    try:
        return prepare_chat(model, as_chat(asked), host)
    except ApiError as error:
        if error.param is not None:
            name, *rest = error.param.split(".", 1)
            error.param = ".".join([ORIGINS.get(name, name), *rest])
        raise


async def _events(running: Running, response: Response, output: ResponseOutput) -> AsyncIterator[bytes]:
    """The events, numbered; the last one has the whole response."""
    number = 0

    def numbered(data: dict[str, Any]) -> bytes:
        nonlocal number
        number += 1
        return event({**data, "sequence_number": number - 1}, data["type"])

    yield numbered({"type": "response.created", "response": response})
    yield numbered({"type": "response.in_progress", "response": response})
    async for piece in running.reader.pieces():
        for data in output.add(piece):
            yield numbered(data)
    for data in output.close():
        yield numbered(data)
    end = end_response(response, output.items, running.reader.collected)
    yield numbered({"type": f"response.{end['status']}", "response": end})


class ResponseOutput:
    """The items of one response as they grow, and the events that say so; text of one kind is one item."""

    def __init__(self) -> None:
        self.items: list[OutputItem] = []
        self._kind, self._name, self._text = "", "", bytearray()

    def add(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Adds a piece of the answer."""
        segment = piece.segment
        if segment.kind == "tool_calls":
            yield from self.close()
            for call in segment.calls:
                yield from self._call(call)
            return
        if segment.kind != self._kind:
            yield from self.close()
            yield from self._open(segment.kind)
        self._text += segment.text.encode()
        kind = "output_text" if segment.kind == "content" else "reasoning_text"
        yield {**self._place(kind, "delta"), "delta": segment.text} | self._logprobs()

    def close(self) -> Iterator[dict[str, Any]]:
        """Ends the item that is open, if there is one."""
        if not self._kind:
            return
        item: OutputItem
        text = self._text.decode()
        if self._kind == "content":
            item, part = message_item(self._name, "completed", text), output_text(text)
            yield {**self._place("output_text", "done"), "text": text} | self._logprobs()
            yield {**self._place("content_part", "done"), "part": part}
        else:
            item = reasoning_item(self._name, "completed", text)
            yield {**self._place("reasoning_text", "done"), "text": text}
        yield self._item("done", item)
        self.items.append(item)
        self._kind = ""
        self._text.clear()

    def _open(self, kind: str) -> Iterator[dict[str, Any]]:
        self._kind = kind
        self._name = new_id("msg" if kind == "content" else "rs")
        make = message_item if kind == "content" else reasoning_item
        yield self._item("added", make(self._name, "in_progress"))
        if kind == "content":
            yield {**self._place("content_part", "added"), "part": output_text("")}

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        name, call_id = new_id("fc"), tool_call(call)["id"]
        place = {"item_id": name, "output_index": len(self.items)}
        yield self._item("added", call_item(name, call_id, "in_progress", ToolCall(call.name, "")))
        kind = "response.function_call_arguments"
        yield {"type": f"{kind}.delta", **place, "delta": call.arguments}
        yield {"type": f"{kind}.done", **place, "name": call.name, "arguments": call.arguments}
        item = call_item(name, call_id, "completed", call)
        yield self._item("done", item)
        self.items.append(item)

    def _item(self, what: str, item: Any) -> dict[str, Any]:
        return {"type": f"response.output_item.{what}", "output_index": len(self.items), "item": item}

    def _place(self, kind: str, what: str) -> dict[str, Any]:
        return {
            "type": f"response.{kind}.{what}",
            "item_id": self._name,
            "output_index": len(self.items),
            "content_index": 0,
        }

    def _logprobs(self) -> dict[str, Any]:
        return {"logprobs": []} if self._kind == "content" else {}
