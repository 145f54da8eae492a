"""What is open, exactly as planned; another plan takes effect between two steps of an answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from threading import RLock

from memory.choices import Request
from memory.costs import MeasuredCosts
from memory.device import Device, kernels_of
from memory.footprint import process_of
from memory.plan import DraftPlan, Plan
from memory.planner import make_plan
from runtime.calibration.stored import planning_costs
from runtime.decoding.draft import Step
from runtime.errors import LogitsError
from runtime.models.loader import Levels, fit
from runtime.models.ort_model import OrtModel
from runtime.process.allocator import give_back
from runtime.speculation.speculator import Speculator


class PlannedModels:
    """The models of ``plan``: the target, the drafters by name, and what makes strategies of them.

    ``costs`` gives what forwards cost on this device, when that is first asked for. ``before_forward`` is called before
    each, and stops it with an error.
    """

    def __init__(
        self,
        levels: Levels,
        plan: Plan,
        request: Request,
        costs: Callable[[], MeasuredCosts],
        before_forward: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self._before_forward = before_forward
        self.target: OrtModel = levels.open_target(plan)
        self.drafters: dict[str, OrtModel] = levels.open_drafters(plan)
        self.speculator = Speculator(self.target, self.drafters, plan.draft, levels.manifest, costs, levels.notify)
        self._levels, self._request = levels, request
        self._residences = levels.expected_residences() | {level.name: level.residence for level in plan.levels}
        self._next_plan: Plan | None = None
        self._stepping = RLock()
        self._watch_forwards()

    def close(self) -> None:
        """Gives back the memory of everything that is open; nothing here can be used afterwards."""
        with self._stepping:
            self._next_plan = None
            self.speculator.close()
            for model in (self.target, *self.drafters.values()):
                model.close()
            self.drafters = {}
            give_back()

    def _watch_forwards(self) -> None:
        for model in (self.target, *self.drafters.values()):
            model.before_forward = self._before_forward

    def replan(self, budget_bytes: int) -> None:
        """Plans anew for ``budget_bytes``, from the next step on; OverBudgetError if that cannot be.

        Context, KV type and kernels stay: the text does not change. May be called from any thread.
        """
        request = replace(
            self._request,
            context=self.plan.context,
            up_to=False,
            kv_type=self.plan.target.kv_type,
            budget_bytes=budget_bytes,
            may_give_up=frozenset(),
        )
        processes = {kernels_of(self.plan.target.residence): process_of(self.plan.process)}
        device = Device(budget_bytes, budget_bytes, residences=self._residences, processes=processes)
        levels = self._levels
        costs = planning_costs(levels.bundle, levels.manifest, request, self._residences)
        self._next_plan = make_plan(levels.manifest, device, request, costs)
        if self._stepping.acquire(blocking=False):
            try:
                self._follow_plan()
            finally:
                self._stepping.release()

    @contextmanager
    def still(self) -> Iterator[None]:
        """A context in which what is open stays as it is; a new plan takes effect behind it."""
        with self._stepping:
            yield
            self._follow_plan()

    def within_plan(self, steps: Generator[Step, None, None]) -> Generator[Step, None, None]:
        """The same steps; a new plan takes effect between two of them."""
        with closing(steps):
            while True:
                with self._stepping:
                    self._follow_plan()
                    try:
                        step = next(steps, None)
                    except LogitsError as error:
                        raise LogitsError(f"target {self._levels.manifest.target.name}: {error}") from None
                if step is None:
                    return
                yield step

    def _follow_plan(self) -> None:
        """Makes what is open what was planned last: first smaller, then larger."""
        plan, self._next_plan = self._next_plan, None
        if plan is None:
            return
        kept = {name: model for name, model in self.drafters.items() if plan.level(name) is not None}
        self.speculator.allow({}, DraftPlan("chain", 0))
        self.drafters = kept
        give_back()
        fit(self.target, plan.target, plan)
        self.drafters = self._levels.open_drafters(plan, kept)
        self._watch_forwards()
        self.speculator.allow(self.drafters, plan.draft)
        self.plan = plan
        give_back()
