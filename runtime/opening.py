"""Opens levels as planned: plans, checks the memory of this device, and plans again if an expectation failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from memory.choices import Request
from memory.device import Device, read_device
from memory.plan import Plan, PlanError, check_plan
from memory.planner import make_plan, require_available
from memory.report import given_up_lines
from runtime.calibration.process_baseline import known_processes
from runtime.calibration.stored import planning_costs
from runtime.models.loader import Levels, OtherResidenceError

Opened = TypeVar("Opened")


def device_now(levels: Levels) -> Device:
    """This device as it is now, with what a process with kernels like the target's takes on it."""
    device = read_device()
    residence = levels.expected_residences()[levels.manifest.target.name]
    return replace(device, processes=known_processes(device, residence))


def open_within(levels: Levels, request: Request, device: Device, make: Callable[[Plan], Opened]) -> Opened:
    """The result of ``make`` for the plan of ``request``; OverBudgetError before anything is loaded.

    Plans again if the weights of a level are elsewhere in memory than expected.
    """
    residences = levels.expected_residences()
    while True:
        costs = planning_costs(levels.bundle, levels.manifest, request, residences)
        plan = make_plan(levels.manifest, replace(device, residences=residences), request, costs)
        require_available(plan, device)
        try:
            opened = make(plan)
        except OtherResidenceError as error:
            residences = {**residences, error.level: error.residence}
            continue
        for line in (*given_up_lines(plan), *plan.warnings):
            levels.notify(line)
        return opened


def open_as_planned(levels: Levels, plan: Plan, device: Device, make: Callable[[Plan], Opened]) -> Opened:
    """The result of ``make`` for a plan of the caller's; PlanError if it does not fit this bundle or device."""
    check_plan(plan, levels.manifest)
    require_available(plan, device)
    try:
        return make(plan)
    except OtherResidenceError as error:
        raise PlanError(f"{error}; make the plan again for this device") from None
