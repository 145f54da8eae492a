"""Reads a request's body: JSON of a known form, or an error that names the parameter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pydantic
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from runtime.server.errors import ApiError
from runtime.server.request_memory import RequestRoom, count_values
from runtime.server.requests.base import Strict
from runtime.server.requests.unsupported import UNSUPPORTED

_Body = TypeVar("_Body", bound=Strict)
_CLOSE = {"connection": "close"}


@asynccontextmanager
async def read_body(
    request: Request, limit: int, most_values: int, seconds: float, room: RequestRoom
) -> AsyncIterator[bytearray]:
    """The body, which has a share of ``room`` in this context.

    ApiError 413 beyond ``limit`` bytes or ``most_values``, 408 after ``seconds``, 415 if it is not declared as JSON,
    429 if other bodies have the room. A body that is refused is read to its end, but not kept: most clients only listen
    after they have sent it all.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            f"the content-type is {kind or 'not given'}; send application/json", status=415, code="unsupported_media"
        )
    try:
        share = room.take(min(_declared_bytes(request, limit), limit))
    except ApiError:
        await _receive(request, 0, seconds)
        raise
    with share:
        body, size = await _receive(request, limit, seconds)
        if size > limit:
            raise ApiError(
                f"the body has {size:,} bytes, allowed are {limit:,}; the server's --max-body sets the limit",
                status=413,
                code="request_too_large",
            )
        values = count_values(body)
        if values > most_values:
            raise ApiError(
                f"the body has {values:,} commas and brackets, which may be as many values, and allowed are"
                f" {most_values:,}; the server's --max-body sets the limit, a tenth of it",
                status=413,
                code="request_too_large",
            )
        yield body


def _declared_bytes(request: Request, unknown: int) -> int:
    """The length of the body as its header says, which the HTTP library holds it to; ``unknown`` without one."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else unknown


async def _receive(request: Request, limit: int, seconds: float) -> tuple[bytearray, int]:
    """The body and its size; of one beyond ``limit`` bytes nothing is kept."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size <= limit:
                    body += part
                else:
                    body.clear()
    except TimeoutError:
        raise ApiError(
            f"the body did not arrive within {seconds:g} seconds", status=408, code="timeout", headers=_CLOSE
        ) from None
    except ClientDisconnect:
        raise ApiError("the client went away", status=499, code="disconnected") from None
    return body, size


def parse_body(body: bytes | bytearray, kind: type[_Body]) -> _Body:
    """``body`` as a ``kind``, or ApiError."""
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(f"the body is not JSON: {error}", code="invalid_json") from None
    return check(data, kind)


def check(data: Any, kind: type[_Body]) -> _Body:
    """JSON data as a ``kind``, or ApiError."""
    if not isinstance(data, dict):
        raise ApiError("the body must be a JSON object", code="invalid_json")
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as error:
        raise _explain(error, data) from None


def _explain(error: pydantic.ValidationError, data: Any) -> ApiError:
    """The first thing that is wrong, in one line. Of alternatives (text or list), the one that fits best counts."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    faults.sort(key=lambda fault: -len(fault["loc"]))
    places = [_place(fault["loc"], data, fault["type"] in ("missing", "extra_forbidden")) for fault in faults]
    param, kind = places[0], faults[0]["type"]
    if kind == "extra_forbidden":
        name = param.rpartition(".")[2]
        if param in UNSUPPORTED:
            return ApiError(
                f"{param} is not supported: {UNSUPPORTED[param]}", param=param, code="unsupported_parameter"
            )
        return ApiError(f"{param} is no parameter; leave {name} out", param=param, code="unknown_parameter")
    if kind == "missing":
        return ApiError(f"{param} is missing", param=param, code="missing_required_parameter")
    reasons = dict.fromkeys(fault["msg"] for fault, place in zip(faults, places, strict=True) if place == param)
    is_fixed = all(fault["type"] == "literal_error" for fault in faults if fault["loc"] == faults[0]["loc"])
    what = "is not supported with this value" if is_fixed else "is wrong"
    code = "unsupported_value" if is_fixed else "invalid_value"
    return ApiError(f"{param or 'the body'} {what}: {'; or '.join(reasons)}", param=param or None, code=code)


def _place(location: tuple[int | str, ...], data: Any, is_absent: bool) -> str:
    """A place in ``data`` as OpenAI writes it, ``messages[0].content``; pydantic's has names of alternatives in it."""
    path = ""
    for number, step in enumerate(location):
        is_last = number == len(location) - 1
        if isinstance(data, dict) and isinstance(step, str) and (step in data or (is_last and is_absent)):
            path, data = f"{path}.{step}" if path else step, data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            path, data = f"{path}[{step}]", data[step]
    return path
