"""The OpenAPI document of a running server, made from the models that check its requests."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.server.operations import OPERATIONS, Operation
from runtime.server.replies import ErrorReply
from runtime.server.service import Service

_REFERENCE = "#/components/schemas/{model}"
_JSON, _EVENTS, _TEXT = "application/json", "text/event-stream", "text/plain"


async def openapi(request: Request) -> Response:
    """This document."""
    service = Service.of(request)
    names = list(service.models.by_name)
    return JSONResponse(await service.in_thread(lambda: make_document(names, service.settings.api_key is not None)))


def make_document(models: list[str], has_key: bool) -> dict[str, Any]:
    """The document of a server with these models; ``has_key``: it asks for a key."""
    forms = {kind for each in OPERATIONS for kind in (each.asked, each.query, each.reply, ErrorReply) if kind}
    adapters = [(kind, "validation", TypeAdapter(kind)) for kind in sorted(forms, key=lambda kind: kind.__name__)]
    found, shared = TypeAdapter.json_schemas(adapters, ref_template=_REFERENCE)  # type: ignore[arg-type]
    schemas = {kind: found[kind, "validation"] for kind, _, _ in adapters}
    components: dict[str, Any] = {"schemas": shared.get("$defs", {})}
    _name_models(components, models)
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method.lower()] = _describe(each, schemas, models)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Pocketspec", "version": version("pocketspec")},
        "paths": paths,
        "components": components,
    }
    if has_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        paths["/health"]["get"]["security"] = []
    return document


def _name_models(components: dict[str, Any], models: list[str]) -> None:
    """Puts the names of the models into the requests' ``model``."""
    requests = {kind.__name__ for each in OPERATIONS for kind in (each.asked, each.query) if kind}
    for name in requests & components["schemas"].keys():
        components["schemas"][name]["properties"]["model"] = {"enum": [*models, None], "default": None}


def _describe(operation: Operation, schemas: dict[Any, Any], models: list[str]) -> dict[str, Any]:
    reply: dict[str, Any] = {_TEXT: {"schema": {"type": "string"}}}
    if operation.reply is not None:
        reply = {_JSON: {"schema": schemas[operation.reply]}}
    if operation.streams:
        reply[_EVENTS] = {}  # as OpenAI streams them
    error = {"description": "What is wrong", "content": {_JSON: {"schema": schemas[ErrorReply]}}}
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.endpoint.__name__,
        "responses": {"200": {"description": "The reply", "content": reply}, "4XX": error, "5XX": error},
    }
    if operation.asked is not None:
        found["requestBody"] = {"required": True, "content": {_JSON: {"schema": schemas[operation.asked]}}}
    if operation.query is not None or "{model}" in operation.path:
        place = "path" if "{model}" in operation.path else "query"
        found["parameters"] = [{"name": "model", "in": place, "required": place == "path", "schema": {"enum": models}}]
    return found
