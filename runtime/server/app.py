"""The application: routes, errors and middleware."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from export.manifest import PocketspecError
from runtime.server.errors import ApiError, as_api_error
from runtime.server.openapi import openapi
from runtime.server.operations import OPERATIONS, Operation
from runtime.server.routes.page import PREFIX, PageFiles, page
from runtime.server.security import KeyMiddleware
from runtime.server.service import Service, Settings


def make_app(service: Service) -> Starlette:
    """The ASGI application of ``service``."""
    app = Starlette(
        routes=[
            *(Route(_path(each), each.endpoint, methods=[each.method]) for each in OPERATIONS),
            Route("/openapi.json", openapi, methods=["GET"]),
            Route("/", page, methods=["GET"]),
            Mount(PREFIX, PageFiles()),
        ],
        middleware=_middleware(service.settings),
        exception_handlers={HTTPException: _http_error, PocketspecError: _error, Exception: _error},
    )
    app.state.service = service
    return app


def _path(operation: Operation) -> str:
    """The path as Starlette writes it; names of models may have slashes."""
    return operation.path.replace("{model}", "{model:path}")


def _middleware(settings: Settings) -> list[Middleware]:
    """The outermost first: the host's name, origins, the key."""
    found = []
    if settings.hosts is not None:
        found.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts), www_redirect=False))
    if settings.origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.origins),
                allow_methods=["GET", "POST", "PUT"],
                allow_headers=["authorization", "content-type"],
            )
        )
    if settings.api_key is not None:
        found.append(Middleware(KeyMiddleware, key=settings.api_key))
    return found


async def _http_error(request: Request, error: Any) -> Response:
    """Unknown routes and methods."""
    known = ApiError(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code, code="no_route")
    return JSONResponse(known.body(), error.status_code, headers=error.headers)


async def _error(request: Request, error: Exception) -> Response:
    known = as_api_error(error)
    return JSONResponse(known.body(), known.status, headers=known.headers)
