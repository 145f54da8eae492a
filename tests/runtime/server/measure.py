"""What serving adds to answering: ``python -m tests.runtime.server.measure BUNDLE``.

Three figures, each with its median and largest value: the time from the first token to its first byte at the client; a
step streamed to a client, compared in turns with a step of an engine in this process; and how late callbacks of the
event loop are while long prompts come in, and why (see ``watched``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from memory import Request
from runtime.engine import Engine
from runtime.speculation.request import PLAIN
from tests.runtime.server.serving import Server, serving
from tests.runtime.server.watched import read_ticks

STEP_MS = 20.0  # the step that overheads are compared with
TOKENS, ROUNDS, PROBES = 200, 9, 400
WATCH_SECONDS = 4.0  # for each kind of request
PROMPT = "Once upon a time"


def streamed(client: httpx.Client, tokens: int) -> tuple[float, dict[str, Any]]:
    """Seconds from the request to the first text, and the server's timings."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    start, first, last = time.perf_counter(), 0.0, ""
    with client.stream("POST", "/completions", json=body) as reply:
        for line in reply.iter_lines():
            first = first or time.perf_counter() - start
            last = line if "timings" in line else last
    timings: dict[str, Any] = json.loads(last[6:])["timings"]
    return first, timings


def first_byte_ms(client: httpx.Client) -> list[float]:
    """From the first token to its first byte, with everything before the engine: HTTP, checks, tokens, the queue."""
    found = []
    for _ in range(PROBES // 10):
        first, timings = streamed(client, 1)
        found.append(first * 1e3 - timings["prompt_ms"] - timings["predicted_ms"])
    return found


def step_ms(client: httpx.Client, engine: Engine) -> tuple[list[float], list[float]]:
    """Milliseconds of a plain step: streamed by the server, and in this process; in turns."""
    served, own = [], []
    for _ in range(ROUNDS):
        served.append(streamed(client, TOKENS)[1]["predicted_per_token_ms"])
        settings: Any = {"raw": True, "max_new_tokens": TOKENS, "ignore_eos": True, "speculation": PLAIN}
        *_, last = engine.generate(PROMPT, **settings)
        own.append((last.stats.seconds - last.stats.first_token_seconds) / (TOKENS - 1) * 1e3)
    return served, own


def bodies() -> dict[str, tuple[str, bytes | None]]:
    """What comes in while the event loop is watched: a path and a body, None for nothing."""

    def text(characters: int) -> dict[str, Any]:
        return {"prompt": ("There was a cat. " * (characters // 17 + 1))[:characters], "max_tokens": 1}

    turns = [{"role": ("user", "assistant")[number % 2], "content": "There was a cat. " * 50} for number in range(59)]
    short = [{"role": "user", "content": "x"}] * 2048
    asked: dict[str, tuple[str, Any]] = {
        "nothing": ("/health", None),
        "prompts of 5,000 characters": ("/completions", text(5_000)),
        "prompts of 50,000 characters": ("/completions", text(50_000)),
        "prompts of 500,000 characters": ("/completions", text(500_000)),
        "chats of 50,000 characters": ("/chat/completions", {"messages": turns, "max_tokens": 1}),
        "2,048 messages each": ("/chat/completions", {"messages": short, "max_tokens": 1}),
        "100,000 token ids each": ("/completions", {"prompt": [5] * 100_000}),
    }
    return {name: (path, body and json.dumps(body).encode()) for name, (path, body) in asked.items()}


def send_for(server: Server, path: str, body: bytes | None, seconds: float) -> None:
    """Sends ``body`` again and again; without one, waits."""
    end = time.monotonic() + seconds
    with httpx.Client(timeout=60, headers={"content-type": "application/json"}) as client:
        while body is not None and time.monotonic() < end:
            client.post(f"{server.url}{path}", content=body)
    time.sleep(max(end - time.monotonic(), 0.0))


def watch_loop(bundle: Path, is_apart: bool) -> None:
    """Shows how late the event loop's callbacks are while requests come in. ``is_apart``: to another server on this
    machine, so what makes callbacks late then is that the processors are busy."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "ticks"
        spans: dict[str, tuple[float, float]] = {}
        with serving(bundle, program=("tests.runtime.server.watched", str(file))) as watched:
            server = stack.enter_context(serving(bundle)) if is_apart else watched
            for name, (path, body) in bodies().items():
                start = time.monotonic()
                send_for(server, path, body, WATCH_SECONDS)
                spans[name] = (start, time.monotonic())
        ticks = read_ticks(file)
    print("in another process:" if is_apart else "in the server itself:")
    for name, (start, end) in spans.items():
        found = [tick for tick in ticks if start <= tick.time <= end]
        print(f"  {name}:")
        for what in ("late", "own", "queued", "locked"):
            show(f"    {what}", [getattr(tick, what) for tick in found])


def show(what: str, values: Sequence[float]) -> None:
    ordered = sorted(values)
    tail = ordered[int(len(ordered) * 0.99)]
    print(f"{what}: median {statistics.median(values):.2f} ms, 99th {tail:.2f} ms, largest {ordered[-1]:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    options = parser.parse_args()
    with (
        serving(options.bundle, "--no-speculation") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
        Engine.open(options.bundle, Request(threads=1, nodes=0)) as engine,
    ):
        show("first byte after the first token", first_byte_ms(client))
        served, own = step_ms(client, engine)
        show("a step streamed", served)
        show("a step in this process", own)
        added = statistics.median(served) - statistics.median(own)
        print(f"streaming adds {added:.3f} ms, {added / STEP_MS:.1%} of a step of {STEP_MS:g} ms")
    watch_loop(options.bundle, is_apart=False)
    watch_loop(options.bundle, is_apart=True)


if __name__ == "__main__":
    main()
