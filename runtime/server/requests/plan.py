"""The body of ``PUT /v1/plan``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runtime.server.requests.base import Strict, Text


class BudgetRequest(Strict):
    """A new budget: bytes, or a size as on the command line (``500MB``, ``60%``). ``model`` if there are several."""

    budget_bytes: Annotated[int, Field(ge=1, le=1 << 60)] | Text
    model: Text | None = None


class PlanQuery(Strict):
    """The query of ``GET /v1/plan``; ``model`` if there are several."""

    model: Text | None = None
