"""The web page at ``/`` and its files. It loads nothing from elsewhere, and browsers are told to hold it to that."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parents[1] / "page"
# Open to all who reach the server: it asks for the key itself, and has nothing of a conversation in it.
PREFIX = "/page"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # a newer version of the server is seen at once
}
# Systems may know others, and scripts of another type do not run.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


async def page(request: Request) -> Response:
    """The page."""
    return FileResponse(FOLDER / "index.html", media_type=_TYPES[".html"], headers=_HEADERS)


class PageFiles(StaticFiles):
    """The files of the page, with its headers."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """See ``StaticFiles``."""
        response = await super().get_response(path, scope)
        suffix = os.path.splitext(path)[1]
        response.headers.update(_HEADERS | {"content-type": _TYPES.get(suffix, "application/octet-stream")})
        return response
