"""Decides every size before anything is loaded: a pure function from manifest, device and request to a plan.

``planner`` makes the plan: ``choices`` is what is decided, ``ladder`` what is given up and in which order,
``footprint`` the bytes and ``speed`` the tokens a second of a choice. ``device`` says what there is, ``meter`` what a
process really takes. Import the names below from here; the runtime also imports single modules (``costs``,
``step_models``, ``drafter_spec``, ``command_line``, ``child`` and others). Only the standard library is needed.
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
