"""The real server in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.places import ROOT

LIMIT_SECONDS = 60  # a hang is a failure


@dataclass(frozen=True)
class Server:
    """A running server; ``url`` ends in /v1."""

    url: str
    process: subprocess.Popen[str]

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def port(self) -> int:
        return int(self.root.rpartition(":")[2])


def command(*words: str | Path, program: Sequence[str] = ("runtime", "serve")) -> list[str]:
    return [sys.executable, "-m", *program, *map(str, words), "--threads", "1"]


def begin(port: int, path: str, body: Any) -> socket.socket:
    """The connection of a request that was sent, and of whose reply little fits into this machine's buffers."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(LIMIT_SECONDS)
    connection.connect(("127.0.0.1", port))
    data = json.dumps(body).encode()
    head = (
        f"POST /v1{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


@contextmanager
def serving(
    *words: str | Path, port: int = 0, program: Sequence[str] = ("runtime", "serve"), **environment: str
) -> Iterator[Server]:
    """A server that is ended by SIGTERM; that must work, and nothing may be written to standard error but notes."""
    process = subprocess.Popen(
        command(*words, "--port", str(port), program=program),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line, (line, errors)
        yield Server(line.split()[-1], process)
        assert process.poll() is None, errors
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            reader.join(LIMIT_SECONDS)
            process.stdout.close()
            process.stderr.close()
    assert code == 0, errors
    assert all(line.startswith("note: ") for line in errors), errors
