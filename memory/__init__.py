"""Decides every size before anything is loaded: a pure function from manifest, device and request to a plan.

``device`` says what there is, ``choices`` what is asked for; ``footprint`` and ``speed`` predict bytes and tokens a
second; ``ladder`` is what is given up, in order; ``planner`` walks it. ``meter`` measures, to hold both to account.
"""

from memory.choices import Request
from memory.device import Device, read_device
from memory.footprint import Footprint, Part
from memory.plan import LevelPlan, OverBudgetError, Placement, Plan, dump_plan, parse_plan
from memory.planner import make_plan

__all__ = [
    "Device",
    "Footprint",
    "LevelPlan",
    "OverBudgetError",
    "Part",
    "Placement",
    "Plan",
    "Request",
    "dump_plan",
    "make_plan",
    "parse_plan",
    "read_device",
]
