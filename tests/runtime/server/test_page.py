"""The web page's files: who may see them, what browsers are told, and that nothing comes from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from runtime.server.app import make_app
from runtime.server.request_memory import RequestMemory
from runtime.server.routes.page import FOLDER
from runtime.server.served import ServedModels
from runtime.server.service import Service, Settings

FILES = sorted(FOLDER.iterdir())
# The name of a language, which nobody loads.
SVG = "http://www.w3.org/2000/svg"
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|setHTML|localStorage"
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A server that asks for a key, and has no models."""
    settings = Settings(RequestMemory(1 << 20, 512), api_key="secret", origins=(), hosts=None)
    with TestClient(make_app(Service(ServedModels({}), settings))) as client:
        yield client


@pytest.mark.parametrize("path", ["/", *(f"/page/{file.name}" for file in FILES)])
def test_files_are_open_and_hold_browsers_to_this_server(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 200
    policy = dict(rule.strip().split(" ", 1) for rule in reply.headers["content-security-policy"].split(";"))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


def test_types_do_not_depend_on_the_system(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimetypes.guess_type", lambda *_, **__: ("text/plain", None))
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/page/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert client.get("/page/style.css").headers["content-type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/page/", "/page/no.js", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/..%5capp.py"]
)
def test_nothing_else_is_there(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code in (401, 404)
    assert set(reply.json()) == {"error"}


def test_the_key_is_asked_for_where_models_are(client: TestClient) -> None:
    assert client.get("/v1/models").status_code == 401
    assert client.get("/pages").status_code == 401


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_comes_from_elsewhere_or_becomes_markup(file: object) -> None:
    text = file.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert set(re.findall(r"(?:https?:|wss?:|[\"'(])//[\w.-]+[\w./-]*", text)) <= {SVG}
    assert not SINKS.findall(text)
    assert not re.search(r"\sstyle=|\son\w+=|<script>|<style", text), "the policy refuses these"


def test_every_file_that_is_named_is_there() -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in FILES}
    named = {name for text in texts.values() for name in re.findall(r"(?:\"|from \")(?:/page|\.)/([\w.-]+)\"", text)}
    assert named <= set(texts)
    assert set(texts) - named == {"index.html"}
