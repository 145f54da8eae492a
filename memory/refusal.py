"""Why a plan is refused: the missing bytes, where the limit comes from, and what would help."""

from __future__ import annotations

from memory.device import Device
from memory.plan import Plan


def refusal_text(plan: Plan, budget: int, device: Device | None) -> str:
    """Why not even the leanest ``plan`` fits ``budget``, which follows from ``device``; None: the user named it."""
    parts = [
        (part.anonymous + part.hot, f"{part.name} of {level.name}")
        for level in plan.levels
        for part in level.footprint.parts
    ]
    largest, name = max([*parts, *((part.anonymous + part.hot, part.name) for part in plan.process.parts)])
    disk = plan.needed_bytes - plan.hot_bytes
    given = "" if device is None else f" ({_origin(plan, device)})"
    return (
        f"{budget:,} bytes{given} are {plan.needed_bytes - budget:,} too few for {plan.bundle} with a context of"
        f" {plan.context}: the largest part is {name} with {largest:,} bytes; allow at least"
        f" {plan.needed_bytes:,} bytes, or ask for a shorter context (with weights read from disk at every"
        f" step, --allow disk, many times slower, {disk:,} bytes would do)"
    )


def unavailable_text(plan: Plan, device: Device, needed: int) -> str:
    """Why ``plan``, which takes ``needed`` bytes, cannot be opened now."""
    remedy = "close other programs" if device.container_bytes is None else "raise the limit of the container"
    return (
        f"{plan.bundle} needs {needed:,} bytes as planned, and {_attainable(device)}; {remedy}, or allow less with a"
        " smaller budget"
    )


def no_constraints_text(plan: Plan, needed: int) -> str:
    """Why answers cannot be constrained within the budget of ``plan``, however much else is given up."""
    return (
        f"constrained answers of {plan.bundle} need a budget of {needed:,} bytes, and {plan.budget_bytes:,} are"
        f" allowed; allow {needed:,}"
    )


def _origin(plan: Plan, device: Device) -> str:
    """Where a budget that the user did not name comes from, and how to get a larger one."""
    raised = "" if device.container_bytes is None else ", or raise the limit"
    if plan.needed_bytes <= device.attainable_bytes:
        more = f"; --max-memory {plan.needed_bytes} uses of the margin what is needed{raised}"
    else:
        more = "; close other programs" if device.container_bytes is None else "; raise the limit"
    return f"{_attainable(device)}, less a margin of {device.margin_bytes:,}{more}"


def _attainable(device: Device) -> str:
    if device.container_bytes is None:
        return f"{device.attainable_bytes:,} are available now"
    return f"{device.attainable_bytes:,} are available now within the {device.container_bytes:,} of the container"
