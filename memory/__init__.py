"""Decides every size before anything is loaded: a pure function from manifest, device and request to a plan."""

from memory.footprint import Footprint
from memory.plan import LevelPlan, OverBudgetError, Plan, Request, make_plan

__all__ = ["Footprint", "LevelPlan", "OverBudgetError", "Plan", "Request", "make_plan"]
