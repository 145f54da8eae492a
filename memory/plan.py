"""The plan: every size the runtime will use, fixed before an inference session exists.

``make_plan`` is pure. It keeps the whole requested context and gives up, in this order, what costs most for least:
draft size, prefill chunk, intermediates, drafters; what is left is plain decoding, and below that nothing fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from export.manifest import Level, Manifest, PocketspecError
from memory.footprint import Footprint, level_footprint

DRAFT_SIZES = (16, 12, 8, 6, 4, 2)
PREFILL_CHUNKS = (256, 128, 64, 32)
# An odd number of rows gets a dummy row, whose cache row is never committed.
PADDING_ROWS = 1


class OverBudgetError(PocketspecError, ValueError):
    """Nothing useful fits the budget; the message names the bytes missing and the smallest budget that would do."""


@dataclass(frozen=True)
class Request:
    """What the user asks for: ``context`` tokens in all (None: what the target can), and at most ``budget_bytes``.

    ``drafters`` names the levels that may be loaded beside the target, None meaning all of them.
    """

    context: int | None = None
    budget_bytes: int | None = None
    drafters: tuple[str, ...] | None = None
    max_draft: int = DRAFT_SIZES[0]
    threads: int | None = None


@dataclass(frozen=True)
class LevelPlan:
    """One level as it will be opened: ``capacity`` rows of KV cache, at most ``max_rows`` rows a forward of a draft."""

    name: str
    kv_type: str
    capacity: int
    max_rows: int
    footprint: Footprint


@dataclass(frozen=True)
class Plan:
    """Every size the runtime uses.

    ``context`` bounds prompt and answer together, ``max_draft`` the nodes of a draft; ``prefill_chunk`` is in tokens.
    """

    bundle: str
    context: int
    max_draft: int
    prefill_chunk: int
    threads: int | None
    budget_bytes: int | None
    levels: tuple[LevelPlan, ...]
    given_up: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Predicted bytes of all levels."""
        return sum(level.footprint.total for level in self.levels)

    def level(self, name: str) -> LevelPlan | None:
        """The plan of level ``name``, None when it is not to be opened."""
        return next((level for level in self.levels if level.name == name), None)


def dump_plan(plan: Plan) -> str:
    """The plan as JSON text."""
    return json.dumps(asdict(plan), indent=2) + "\n"


def parse_plan(text: str) -> Plan:
    """The plan in JSON ``text``, as ``dump_plan`` wrote it."""
    data: dict[str, Any] = json.loads(text)
    levels = tuple(LevelPlan(**{**level, "footprint": Footprint(**level["footprint"])}) for level in data["levels"])
    return Plan(**{**data, "levels": levels, "given_up": tuple(data["given_up"])})


def make_plan(manifest: Manifest, request: Request) -> Plan:
    """The first plan of the ladder that fits; OverBudgetError if not even plain decoding does."""
    plans = list(_ladder(manifest, request, _context(manifest, request)))
    budget = request.budget_bytes
    if budget is None:
        return plans[0]
    for plan in plans:
        if plan.total_bytes <= budget:
            return plan
    raise OverBudgetError(_refusal(plans[-1], budget))


def _context(manifest: Manifest, request: Request) -> int:
    positions = manifest.target.shape.positions
    if request.context is None:
        return positions
    if not 2 <= request.context <= positions:
        raise PocketspecError(
            f"a context of {request.context} tokens is outside 2..{positions}, what {manifest.target.name} was made for"
        )
    return request.context


def _ladder(manifest: Manifest, request: Request, context: int) -> Iterator[Plan]:
    """Plans from the most useful to the leanest, each with what it gave up so far."""
    drafts = [request.max_draft, *(size for size in DRAFT_SIZES if size < request.max_draft)]
    partners = [level for level in manifest.drafters() if request.drafters is None or level.name in request.drafters]
    make = partial(_plan, manifest, request, context)
    yield make(drafts[0], PREFILL_CHUNKS[0], partners, ())
    given_up: tuple[str, ...] = ()
    for size in drafts[1:]:
        given_up = (f"draft size {drafts[0]} -> {size}",)
        yield make(size, PREFILL_CHUNKS[0], partners, given_up)
    for chunk in PREFILL_CHUNKS[1:]:
        yield make(drafts[-1], chunk, partners, (*given_up, f"prefill chunk {PREFILL_CHUNKS[0]} -> {chunk}"))
    given_up = (*given_up, f"prefill chunk {PREFILL_CHUNKS[0]} -> {PREFILL_CHUNKS[-1]}")
    for kept in reversed(range(len(partners))):
        given_up = (*given_up, f"without {partners[kept].role} {partners[kept].name}")
        yield make(drafts[-1], PREFILL_CHUNKS[-1], partners[:kept], given_up)


def _plan(
    manifest: Manifest,
    request: Request,
    context: int,
    max_draft: int,
    chunk: int,
    partners: list[Level],
    given_up: tuple[str, ...],
) -> Plan:
    rows = max_draft + 1 + PADDING_ROWS
    levels = []
    for level in [manifest.target, *partners]:
        kv_type = next(iter(level.graphs))
        capacity = min(context, level.shape.positions) + rows
        footprint = level_footprint(level, kv_type, capacity, rows, chunk)
        levels.append(LevelPlan(level.name, kv_type, capacity, rows, footprint))
    return Plan(
        manifest.name, context, max_draft, chunk, request.threads, request.budget_bytes, tuple(levels), given_up
    )


def _refusal(plan: Plan, budget: int) -> str:
    target = plan.levels[0].footprint
    parts = {"weights": target.weights, "KV cache": target.kv_cache, "logits": target.logits}
    largest = max(parts, key=lambda part: parts[part])
    return (
        f"{budget:,} bytes are {plan.total_bytes - budget:,} too few for {plan.bundle} with a context of"
        f" {plan.context}: the largest part is the {largest} with {parts[largest]:,} bytes; allow at least"
        f" {plan.total_bytes:,} bytes or ask for a shorter context"
    )
