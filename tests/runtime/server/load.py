"""Many clients at once, for as long as wanted: ``python -m tests.runtime.server.load BUNDLE --seconds 600``.

Requests of mixed lengths, streamed and whole, some cancelled, some malformed, some that nobody reads, while the budget
changes. What is counted is in ``Tally``; a bundle with native kernels must give every answer as it gives it alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from tests.runtime.server.serving import Server, begin, serving

CLIENTS = 20
LIMIT_SECONDS = 300  # a hang is a fault
TOKENS = (1, 7, 30, 90)
TALKS = 12
MALFORMED: tuple[Any, ...] = (b"{", b"\xff", {"prompt": 3}, {"prompt": "x", "n": 2}, {"prompt": "x" * 200_000}, [])


@dataclass(frozen=True)
class Ask:
    """A request and the text that it gets alone."""

    body: dict[str, Any]
    text: str


@dataclass
class Tally:
    """What happened: ``events`` by kind, ``faults`` that must not be, and over time the anonymous bytes of the server
    beside those of its plan, the margin included."""

    events: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)

    def line(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.events.items()))
        line = f"{counts}; {len(self.faults)} faults"
        if self.memory:
            first, last = self.memory[len(self.memory) // 4], self.memory[-1]
            line += f"; {first / 1e6:.1f} MB after a quarter, {last / 1e6:.1f} MB at the end"
        return line


def asks(bundle: Path, rng: random.Random) -> list[Ask]:
    """Requests of mixed lengths, greedy and seeded, with what the engine answers alone."""
    made = []
    with Engine.open(bundle, Request(threads=1)) as engine:
        for talk in range(TALKS):
            prompt = f"Story {talk}. " + "There was a cat who went to the sea. " * rng.choice((0, 1, 6, 12))
            for tokens in TOKENS:
                seed = rng.choice((None, rng.randrange(100)))
                body: dict[str, Any] = {
                    "prompt": prompt,
                    "max_tokens": tokens,
                    "temperature": 0.0 if seed is None else 1.0,
                }
                sampling = SamplingParams() if seed is None else SamplingParams(temperature=1.0, seed=seed)
                if seed is not None:
                    body["seed"] = seed
                chunks = engine.generate(prompt, raw=True, max_new_tokens=tokens, sampling=sampling)
                made.append(Ask(body, "".join(chunk.text for chunk in chunks)))
    return made


async def load(server: Server, known: list[Ask], seconds: float, seed: int = 0) -> Tally:
    """Runs all clients for ``seconds``."""
    tally, end = Tally(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=LIMIT_SECONDS, limits=limits) as client:
        clients = [_client(client, known, tally, end, random.Random(seed + number)) for number in range(CLIENTS)]
        await asyncio.gather(*clients, _budget(client, tally, end, random.Random(seed)), _watch(client, tally, end))
    for place, used in enumerate(tally.memory):
        # A plan may change between what was seen before and after; meanwhile the larger one counts.
        allowed = max(tally.planned[max(place - 1, 0) : place + 2])
        if used > allowed:
            tally.faults.append(f"{used:,} bytes at second {place}, and the plan says {allowed:,}")
    return tally


async def _client(client: httpx.AsyncClient, known: list[Ask], tally: Tally, end: float, rng: random.Random) -> None:
    while time.monotonic() < end:
        action = rng.choices((_whole, _streamed, _cancelled, _malformed, _silent), (4, 4, 2, 1, 2))[0]
        try:
            await action(client, rng.choice(known), tally, rng)
        except Exception as error:
            tally.faults.append(f"{action.__name__}: {type(error).__name__}: {error}")


async def _whole(client: httpx.AsyncClient, ask: Ask, tally: Tally, rng: random.Random) -> None:
    reply = await client.post("/completions", json=ask.body)
    _compare(ask, reply.json()["choices"][0]["text"] if reply.status_code == 200 else reply.text, tally)


async def _streamed(client: httpx.AsyncClient, ask: Ask, tally: Tally, rng: random.Random) -> None:
    text = ""
    async with client.stream("POST", "/completions", json=ask.body | {"stream": True}) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                data = json.loads(line[6:])
                text += data["choices"][0]["text"] if "choices" in data else f"error: {data}"
    _compare(ask, text, tally)


async def _cancelled(client: httpx.AsyncClient, ask: Ask, tally: Tally, rng: random.Random) -> None:
    """The connection is closed after a while, wherever the request is by then."""
    try:
        async with asyncio.timeout(rng.expovariate(5)):
            await _streamed(client, ask, tally, rng)
    except TimeoutError:
        tally.events["cancelled"] += 1


async def _malformed(client: httpx.AsyncClient, ask: Ask, tally: Tally, rng: random.Random) -> None:
    body = rng.choice(MALFORMED)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await client.post("/completions", content=data, headers={"content-type": "application/json"})
    tally.events["refused"] += 1
    if reply.status_code not in (400, 413):
        tally.faults.append(f"{reply.status_code} for {data[:40]!r}")


async def _silent(client: httpx.AsyncClient, ask: Ask, tally: Tally, rng: random.Random) -> None:
    """Large events that nobody reads, for as long as a few answers take; then the connection is closed."""
    port = client.base_url.port
    assert port is not None
    body = ask.body | {"stream": rng.random() < 0.7, "logprobs": 20, "max_tokens": 300, "ignore_eos": True}
    with begin(port, "/completions", body):
        await asyncio.sleep(rng.uniform(1, 20))
    tally.events["not read"] += 1


def _compare(ask: Ask, text: str, tally: Tally) -> None:
    tally.events["answered"] += 1
    if text != ask.text:
        tally.faults.append(f"{ask.body}: {text!r} and alone {ask.text!r}")


async def _budget(client: httpx.AsyncClient, tally: Tally, end: float, rng: random.Random) -> None:
    plan = (await client.get("/plan")).json()
    least, most = plan["smallest_budget_bytes"], plan["needed_bytes"]
    while time.monotonic() < end:
        await asyncio.sleep(rng.uniform(0.2, 2))
        reply = await client.put("/plan", json={"budget_bytes": rng.randint(least - 100_000, most)})
        tally.events["budgets"] += 1
        if reply.status_code not in (200, 400):
            tally.faults.append(f"budget: {reply.status_code}")
    await client.put("/plan", json={"budget_bytes": most})


async def _watch(client: httpx.AsyncClient, tally: Tally, end: float) -> None:
    while time.monotonic() < end:
        await asyncio.sleep(1)
        try:
            reply = (await client.get("/plan")).json()
        except httpx.HTTPError as error:
            tally.faults.append(f"plan: {type(error).__name__}")
            continue
        plan = reply["plan"]
        footprints = (plan["process"], *(level["footprint"] for level in plan["levels"]))
        running = sum(part["anonymous"] for each in footprints for part in each["parts"])
        if reply["memory"] is not None:  # systems that do not say have nothing to be held to
            tally.memory.append(reply["memory"]["anonymous_bytes"])
            tally.planned.append(running + plan["margin_bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    known = asks(options.bundle, random.Random(0))
    with serving(options.bundle) as server:
        tally = asyncio.run(load(server, known, options.seconds))
        print(tally.line(), *tally.faults[:20], sep="\n")
        pairs = zip(tally.memory, tally.planned, strict=True)
        print("MB used and planned:", *(f"{used / 1e6:.0f}/{planned / 1e6:.0f}" for used, planned in pairs))


if __name__ == "__main__":
    main()
