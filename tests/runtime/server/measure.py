"""What serving adds to answering: ``python -m tests.runtime.server.measure BUNDLE``.

Three figures, each with its median and largest value: the time from the first token to its first byte at the client; a
step streamed to a client, compared in turns with a step of an engine in this process; and how long ``/health`` takes
while long prompts come in, which is how long the event loop is kept waiting, and more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from memory import Request
from runtime.engine import Engine
from runtime.speculation.request import PLAIN
from tests.runtime.server.serving import Server, serving

STEP_MS = 20.0  # the step that overheads are compared with
TOKENS, ROUNDS, PROBES = 200, 9, 400
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


def health_ms(server: Server, characters: int) -> list[float]:
    """How long ``/health`` takes while prompts of so many characters come in, one after the other; 0: none do."""
    over = threading.Event()

    def ask() -> None:
        prompt = ("There was a cat. " * (characters // 17 + 1))[:characters]
        body = json.dumps({"prompt": prompt, "max_tokens": 1}).encode()
        with httpx.Client(timeout=60) as other:
            while characters and not over.is_set():
                other.post(f"{server.url}/completions", content=body, headers={"content-type": "application/json"})

    thread = threading.Thread(target=ask)
    thread.start()
    found = []
    with httpx.Client(timeout=60) as client:
        for _ in range(PROBES):
            start = time.perf_counter()
            client.get(f"{server.root}/health")
            found.append((time.perf_counter() - start) * 1e3)
    over.set()
    thread.join()
    return found


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
        for characters in (0, 5_000, 50_000, 500_000):
            show(f"health while prompts of {characters:,} characters come in", health_ms(server, characters))


if __name__ == "__main__":
    main()
