"""Errors as OpenAI writes them: a status and an object that names the parameter."""

from __future__ import annotations

from typing import Any

from export.manifest import PocketspecError
from memory.plan import OverBudgetError
from runtime.errors import ContextFullError
from runtime.turns import ClosedError


class ApiError(PocketspecError):
    """A request that is refused, or that failed. ``param`` names what is wrong with it, ``code`` is for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        """The error object that clients get."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def as_api_error(error: BaseException, param: str | None = None) -> ApiError:
    """``error`` for a client; one that is not this project's own gives away no more than its type.

    What can never fit is 413; what a larger budget would have room for (``PUT /v1/plan``) is 503.
    """
    match error:
        case ApiError():
            return error
        case ContextFullError():
            return ApiError(str(error), status=413, param=param, code="context_length_exceeded")
        case OverBudgetError():
            return ApiError(str(error), status=503, param=param, code="budget_too_small")
        case ClosedError():
            return shutting_down()
        case PocketspecError():
            return ApiError(str(error), param=param, code="invalid_value")
    return ApiError(f"the server failed ({type(error).__name__}); its log says more", status=500, code="internal_error")


def shutting_down() -> ApiError:
    """The error of requests that are open while the server stops."""
    return ApiError("the server is shutting down", status=503, code="shutting_down")
