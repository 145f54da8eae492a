"""One server for all of these tests, with two models of random weights: "tiny", and "tools", whose template has tools
and reasoning."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.runtime.server.serving import Server, serving
from tests.runtime.tiny_bundle import write_tiny_bundle

if TYPE_CHECKING:
    import openai

TOOLS_TEMPLATE = (
    "{% if tools %}Call {{ tools[0].function.name }} as [TOOL_CALLS]{% endif %}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% for call in m.tool_calls %}[TOOL_CALLS]{{ call.function.arguments | tojson }}{% endfor %}"
    "<|end|>{% endfor %}[assistant] {% if enable_thinking %}<think>{% else %}</think>{% endif %}"
)

Post = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="session")
def tools_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tools", chat_template=TOOLS_TEMPLATE)


@pytest.fixture(scope="session")
def server(random_bundle: Path, tools_bundle: Path) -> Iterator[Server]:
    with serving(random_bundle, f"tools={tools_bundle}") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    import openai  # here, since it takes seconds, also of those who run no test of the server

    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def post(server: Server) -> Post:
    """Sends a body as it is, or as JSON, to a path under /v1; returns status and reply."""

    def send(path: str, body: Any, method: str = "POST", **headers: str) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        request = urllib.request.Request(f"{server.url}{path}", data, names, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return send
