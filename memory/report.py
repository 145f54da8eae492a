"""A plan as text for people: one line for each fact, and a table of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from memory.footprint import Footprint
from memory.plan import LevelPlan, Placement, Plan
from memory.size import show_bytes


def plan_lines(plan: Plan) -> Iterator[str]:
    """All of a plan, line by line."""
    yield (
        f"plan for {plan.bundle}: {show_bytes(plan.needed_bytes)} of {show_bytes(plan.budget_bytes)} allowed;"
        f" about {plan.tokens_per_second:.1f} tokens/s on the reference machine"
    )
    per_turn = plan.context // plan.turns
    turns = "" if plan.turns == 1 else f" for {plan.turns} turns of {per_turn:,}"
    yield f"  context {plan.context:,} tokens{turns}; prompts are read in chunks of {plan.prefill_chunk} rows"
    yield f"  drafts: {_draft(plan)}"
    if plan.kept_conversations:
        yield f"  conversations kept beside the current one: {plan.kept_conversations}"
    for level in plan.levels:
        yield f"  {level.role} {level.name}: {_level(level)}"
    yield ""
    yield from table_lines(plan)
    yield ""
    yield f"  margin for what the allocator rounds up: {show_bytes(plan.margin_bytes)}"
    if plan.loading_bytes >= plan.anonymous_bytes:
        yield f"  the peak is while loading: {show_bytes(plan.loading_bytes)} anonymous"
    yield from bounds_lines(plan)
    for line in given_up_lines(plan):
        yield f"  {line}"
    for line in plan.warnings:
        yield f"  warning: {line}"


def bounds_lines(plan: Plan) -> Iterator[str]:
    """The smallest budgets for the plan's context."""
    speculative, plain = plan.bounds.speculative_bytes, plan.bounds.plain_bytes
    if speculative is not None:
        yield f"  smallest budget for this context with speculation: {speculative:,} bytes"
    yield f"  smallest budget for this context without: {plain:,} bytes"


def given_up_lines(plan: Plan) -> Iterator[str]:
    """What was given up, and why."""
    for entry in plan.given_up:
        yield f"given up: {entry.step}, {entry.change}, {show_bytes(entry.saved_bytes)}: {entry.reason}"


def table_lines(plan: Plan) -> Iterator[str]:
    """The table of bytes by part: anonymous, hot and cold."""
    rows = [("process", plan.process), *((level.name, level.footprint) for level in plan.levels)]
    width = max(len(f"{owner}: {part.name}") for owner, footprint in rows for part in footprint.parts)
    yield f"  {'MB':{width}}  {'anonymous':>10}  {'hot files':>10}  {'cold files':>10}"
    for owner, footprint in rows:
        yield from (f"  {line}" for line in _part_lines(owner, footprint, width))
    sums = (plan.anonymous_bytes, plan.hot_bytes, plan.cold_bytes)
    yield f"  {'in all':{width}}  " + "  ".join(f"{count / 1e6:>10,.1f}" for count in sums)


def _part_lines(owner: str, footprint: Footprint, width: int) -> Iterator[str]:
    for part in footprint.parts:
        counts = (part.anonymous, part.hot, part.cold)
        if any(counts):
            yield f"{f'{owner}: {part.name}':{width}}  " + "  ".join(f"{count / 1e6:>10,.1f}" for count in counts)


def _draft(plan: Plan) -> str:
    if not plan.draft.nodes:
        return "none, plain decoding"
    names = " or ".join(level.name for level in plan.levels[1:]) or "suffix (repetition in the text)"
    return f"a {plan.draft.shape} of up to {plan.draft.nodes} by {names}"


def _level(level: LevelPlan) -> str:
    grown = f", {level.first_capacity:,} at first" if level.growth else ""
    weights = {"native": "mapped", "prepacked": "mapped, as ONNX Runtime packs them", "copied": "copied"}[
        level.residence
    ]
    cache = f"KV cache {level.kv_type}, {level.capacity:,} rows{grown}"
    return f"weights {weights}; {cache}; {level.logits_rows} rows of logits{_place(level.placement)}"


def _place(placement: Placement) -> str:
    """What a level has of the device for itself; empty if it has no placement of its own."""
    threads = placement.threads_of(None)
    words = [placement.provider] if placement.provider != Placement().provider else []
    words += [] if threads is None else [f"{threads} thread{'s' * (threads > 1)}"]
    words += [f"on core {', '.join(map(str, placement.cores))}"] if placement.cores else []
    return f"; {' '.join(words)}" if words else ""
