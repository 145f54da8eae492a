"""The operations of the server, once for the routes and for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.server import replies
from runtime.server.requests.base import Strict
from runtime.server.requests.chat import ChatRequest
from runtime.server.requests.completions import CompletionRequest
from runtime.server.requests.plan import BudgetRequest, PlanQuery
from runtime.server.requests.responses import ResponsesRequest
from runtime.server.response_objects import Response as ResponseObject
from runtime.server.routes.about import get_model, health, list_models, metrics
from runtime.server.routes.chat import chat_completions
from runtime.server.routes.completions import completions
from runtime.server.routes.plan import get_plan, put_plan
from runtime.server.routes.responses import responses


@dataclass(frozen=True)
class Operation:
    """One method of a path. ``asked`` is the form of the body, ``query`` that of the query, ``reply`` that of the reply
    (None: text). ``streams``: with ``"stream": true`` the reply is a stream of events."""

    method: str
    path: str
    endpoint: Callable[[Request], Awaitable[Response]]
    reply: Any
    asked: type[Strict] | None = None
    query: type[Strict] | None = None
    streams: bool = False

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return (self.endpoint.__doc__ or "").partition("\n")[0]


OPERATIONS = (
    Operation("GET", "/v1/models", list_models, replies.ModelList),
    Operation("GET", "/v1/models/{model}", get_model, replies.ModelCard),
    Operation("POST", "/v1/chat/completions", chat_completions, replies.ChatCompletion, ChatRequest, streams=True),
    Operation("POST", "/v1/completions", completions, replies.Completion, CompletionRequest, streams=True),
    Operation("POST", "/v1/responses", responses, ResponseObject, ResponsesRequest, streams=True),
    Operation("GET", "/v1/plan", get_plan, replies.PlanReply, query=PlanQuery),
    Operation("PUT", "/v1/plan", put_plan, replies.PlanReply, BudgetRequest),
    Operation("GET", "/health", health, replies.Health),
    Operation("GET", "/metrics", metrics, None),
)
