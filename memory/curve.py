"""Predicted speed and context by budget: every budget at which the plan changes, from the least on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.manifest import Manifest, PocketspecError
from memory.choices import Request
from memory.device import Device
from memory.plan import Plan
from memory.planner import make_plans
from memory.size import show_bytes

_BAR = 30


@dataclass(frozen=True)
class Point:
    """``plan`` is the best from ``budget_bytes`` on, up to the budget of the next point."""

    budget_bytes: int
    plan: Plan


def make_curve(manifest: Manifest, device: Device, request: Request) -> list[Point]:
    """The points of the curve by rising budget. The request's own budget is ignored, and its context may shrink."""
    request = replace(request, budget_bytes=None, may_give_up=request.may_give_up | {"context"})
    plans = make_plans(manifest, device, request)
    return [Point(plan.needed_bytes, plan) for plan in sorted(plans, key=lambda plan: plan.needed_bytes)]


def curve_lines(name: str, points: Sequence[Point]) -> Iterator[str]:
    """The curve as a table with bars. Of the points with a shorter context most are left out."""
    fastest = max(point.plan.tokens_per_second for point in points)
    yield f"{name}: predicted tokens/s on the reference machine, and context, by budget"
    yield f"{'budget':>12}  {'context':>8}  {'tokens/s':>8}  {'':{_BAR}}  what"
    for point in _thinned(points):
        plan = point.plan
        bar = "#" * max(1, round(_BAR * plan.tokens_per_second / fastest))
        drafts = f"{plan.draft.shape} of {plan.draft.nodes}" if plan.draft.nodes else "no drafts"
        who = " + ".join(level.name for level in plan.levels[1:]) or ("suffix" if plan.draft.nodes else "plain")
        yield (
            f"{show_bytes(point.budget_bytes):>12}  {plan.context:>8,}  {plan.tokens_per_second:>8.1f}  {bar:{_BAR}} "
            f" {drafts}, {who}, KV {plan.target.kv_type}, chunks of {plan.prefill_chunk}"
        )


def draw(name: str, points: Sequence[Point], path: Path) -> None:
    """Writes the curve to ``path`` as a PNG; PocketspecError without matplotlib, or if it cannot be written."""
    if path.suffix != ".png":
        raise PocketspecError(f"--output {path}: the name must end in .png")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PocketspecError("drawing needs matplotlib; pip install 'pocketspec[plot]'") from None
    budgets = [point.budget_bytes / 1e6 for point in points]
    figure = Figure(figsize=(8, 5), layout="constrained")
    speed, context = figure.subplots(2, 1, sharex=True)
    speed.step(budgets, [point.plan.tokens_per_second for point in points], where="post")
    speed.set_ylabel("predicted tokens/s\n(reference machine)")
    speed.set_ylim(bottom=0)
    speed.set_title(f"{name}: what memory buys")
    context.step(budgets, [point.plan.context for point in points], where="post", color="tab:green")
    context.set_ylabel("context, tokens")
    context.set_xlabel("budget, MB")
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PocketspecError(f"cannot write {path}: {error.strerror}") from None


def _thinned(points: Sequence[Point]) -> Iterator[Point]:
    """Every eighth of the points with a shorter context, then all with the whole one."""
    whole = max(point.plan.context for point in points)
    shorter = [point for point in points if point.plan.context < whole]
    yield from shorter[::8]
    yield from (point for point in points if point.plan.context == whole)
