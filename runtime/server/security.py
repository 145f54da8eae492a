"""Who may ask: the key. Names of the host and origins of web pages are Starlette's own middleware."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.server.errors import ApiError
from runtime.server.routes.page import PREFIX

# Open to all: nothing of a conversation is told here.
_PUBLIC = {"/health", "/"}


class KeyMiddleware:
    """Refuses requests without ``Authorization: Bearer KEY``."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or _is_public(scope["path"]) or self._is_known(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = ApiError("the API key is missing or wrong", status=401, code="invalid_api_key")
        response = JSONResponse(error.body(), 401, headers={"www-authenticate": "Bearer"})
        await response(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key)


def _is_public(path: str) -> bool:
    return path in _PUBLIC or path.startswith(f"{PREFIX}/")
