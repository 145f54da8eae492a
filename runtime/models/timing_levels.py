"""Levels that are opened only to time their forwards."""

from __future__ import annotations

from memory.plan import Plan
from runtime.models.loader import Levels
from runtime.models.ort_model import OrtModel
from runtime.models.placement import check_placement


class TimingLevels(Levels):
    """Levels whose widths are not tested: only answers depend on that, and for 64 rows the test takes minutes."""

    def open_target(self, plan: Plan) -> OrtModel:
        """See ``Levels``. No two widths are assumed to agree."""
        for level in plan.levels:
            check_placement(level.name, level.placement)
        return self._open(plan.target, plan)
