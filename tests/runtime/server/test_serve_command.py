"""Starting and ending: what cannot be served is refused in one line, and only the address given is used."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from runtime.__main__ import main
from tests.places import ROOT
from tests.runtime.server.serving import LIMIT_SECONDS, Server, command, serving


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["serve", *map(str, words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_what_cannot_be_served_is_refused_in_one_line(
    random_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(capsys, random_bundle, "--port", str(port))
        assert f"cannot listen on port {port} of 127.0.0.1" in line
        assert "--port" in line
    assert "ports are 0 to 65535" in refused(capsys, random_bundle, "--port", "70000")
    assert "--host no.such.host.invalid" in refused(capsys, random_bundle, "--host", "no.such.host.invalid")
    assert str(tmp_path / "none") in refused(capsys, tmp_path / "none", "--port", "0")
    line = refused(capsys, random_bundle, random_bundle, "--port", "0")
    assert "there is a model 'tiny' already; write NAME=" in line
    assert "empty" in refused(capsys, random_bundle, "--api-key", "")
    assert "contradict" in refused(capsys, random_bundle, "--api-key", "a", "--api-key-file", tmp_path / "key")
    assert "cannot read a key" in refused(capsys, random_bundle, "--api-key-file", tmp_path / "key")
    assert "--max-queue 0" in refused(capsys, random_bundle, "--max-queue", "0")
    assert "--max-body 50%" in refused(capsys, random_bundle, "--max-body", "50%")


def test_a_missing_extra_is_named(random_bundle: Path) -> None:
    program = (
        "import sys\nsys.modules['starlette'] = None\nfrom runtime.__main__ import main\n"
        f"sys.exit(main(['serve', {str(random_bundle)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: starlette is not installed; pip install 'pocketspec[server]'\n"


@pytest.fixture(scope="module")
def guarded(random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_text("s3cret\n")
    with serving(random_bundle, "--api-key-file", key, "--cors", "https://page.example") as server:
        yield server


def test_the_key_is_asked_for_everywhere_but_for_health(guarded: Server) -> None:
    right = {"authorization": "Bearer s3cret"}
    assert httpx.get(f"{guarded.root}/health").status_code == 200
    for path in ("/v1/models", "/v1/plan", "/metrics", "/openapi.json", "/nothing"):
        for wrong in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "Basic s3cret"}):
            reply = httpx.get(f"{guarded.root}{path}", headers=wrong)
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{guarded.root}{path}", headers=right).status_code in (200, 404)


def test_pages_of_other_origins_and_names_are_kept_out(guarded: Server, server: Server) -> None:
    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
    allowed = httpx.options(f"{guarded.url}/completions", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    for url, origin in ((guarded.url, "https://evil.example"), (server.url, "https://page.example")):
        reply = httpx.options(f"{url}/completions", headers=asked | {"origin": origin})
        assert "access-control-allow-origin" not in reply.headers
    assert httpx.get(f"{server.url}/models", headers={"host": "evil.example"}).status_code == 400
    for name in ("localhost", "127.0.0.1:80", "[::1]:80"):
        assert httpx.get(f"{server.url}/models", headers={"host": name}).status_code == 200


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system does not list its sockets there")
def test_nothing_listens_or_sends_beyond_the_address_given(server: Server) -> None:
    httpx.get(f"{server.url}/models")
    own = set()
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection that has just been closed
            own |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    lines = [
        line.split()
        for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
        for line in Path(f"/proc/{server.process.pid}/net/{kind}").read_text().splitlines()[1:]
    ]
    addresses = {(line[1], line[3]) for line in lines if line[9] in own}
    listening = f"0100007F:{server.port:04X}"
    assert (listening, "0A") in addresses
    assert {address for address, _ in addresses} == {listening}


def test_a_signal_ends_the_server_and_says_so_to_those_who_wait(random_bundle: Path) -> None:
    body = {"prompt": "x", "max_tokens": 450, "ignore_eos": True, "stream": True}
    with (
        subprocess.Popen(command(random_bundle, "--port", "0"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
        httpx.Client(timeout=LIMIT_SECONDS) as client,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with client.stream("POST", f"{url}/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            assert any("shutting_down" in line or "[DONE]" in line for line in lines)
        assert process.wait(LIMIT_SECONDS) == 0
