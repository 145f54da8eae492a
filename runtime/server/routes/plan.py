"""``/v1/plan``: the memory plan, and a budget that may change while the server runs."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from export.manifest import PocketspecError
from memory.device import read_device
from memory.meter import read_memory
from memory.plan import OverBudgetError
from memory.size import MemoryShare, parse_size
from runtime.server.checking import check
from runtime.server.errors import ApiError, as_api_error
from runtime.server.replies import PlanReply
from runtime.server.requests.plan import BudgetRequest, PlanQuery
from runtime.server.served import ServedModel
from runtime.server.service import Service


async def get_plan(request: Request) -> Response:
    """The plan of one model."""
    service = Service.of(request)
    query = check(dict(request.query_params), PlanQuery)
    model = service.models.find_one(query.model)
    return JSONResponse(await service.in_thread(lambda: _reply(model)))


async def put_plan(request: Request) -> Response:
    """Sets the budget of one model, also in the middle of its answers, whose text stays the same."""
    service = Service.of(request)
    asked = await service.read(request, BudgetRequest)
    model = service.models.find_one(asked.model)
    return JSONResponse(await service.in_thread(lambda: _change(model, asked.budget_bytes)))


def _change(model: ServedModel, budget: int | str) -> PlanReply:
    try:
        size = parse_size(budget) if isinstance(budget, str) else budget
        if isinstance(size, MemoryShare):
            size = size.of(read_device().attainable_bytes)
        model.engine.set_budget(size)
    except OverBudgetError as error:
        raise ApiError(str(error), param="budget_bytes", code="budget_too_small") from None
    except PocketspecError as error:
        raise as_api_error(error, "budget_bytes") from None
    return _reply(model)


def _smallest_budget(model: ServedModel) -> int:
    """The least that the open engine can go on with; its context and KV type stay."""
    try:
        model.engine.replan(1)
    except OverBudgetError as error:
        return error.smallest_bytes
    raise AssertionError("a budget of one byte is enough")


def _reply(model: ServedModel) -> PlanReply:
    plan, memory = model.engine.plan, read_memory()
    return {
        "model": model.name,
        "budget_bytes": plan.budget_bytes,
        "needed_bytes": plan.needed_bytes,
        "smallest_budget_bytes": _smallest_budget(model),
        "tokens_per_second": plan.tokens_per_second,
        "memory": None
        if memory is None
        else {"anonymous_bytes": memory.anonymous_bytes, "file_bytes": memory.file_bytes},
        "plan": asdict(plan),
    }
