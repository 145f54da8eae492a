"""The open models, exactly as planned. Another plan takes effect between two steps of an answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import TypeVar

from memory.build import plan_with_constraints
from memory.choices import Request
from memory.costs import MeasuredCosts
from memory.device import Device, kernels_of
from memory.footprint import process_of
from memory.plan import DraftPlan, OverBudgetError, Plan
from memory.planner import make_plan
from memory.refusal import no_constraints_text
from runtime.bundle.draft_table import open_draft_table
from runtime.calibration.stored import planning_costs
from runtime.context_overflow import Refit, steps_with_refit
from runtime.decoding.context import Context
from runtime.decoding.draft import Step
from runtime.decoding.logprobs import TokenLogprob
from runtime.decoding.loop import decode
from runtime.decoding.protocols import StoppingCriterion
from runtime.decoding.scoring import score
from runtime.errors import LogitsError
from runtime.models.loader import Levels, fit
from runtime.models.ort_model import OrtModel
from runtime.process.allocator import give_back
from runtime.speculation.speculator import Speculator, Strategy

_T = TypeVar("_T")


class PlannedModels:
    """The models of ``plan``: the target, the draft models by name, and the speculator that uses them.

    ``costs`` is called when the costs of forwards on this device are first needed. ``before_forward`` is called before
    each forward, which it can prevent by raising an error. ``on_plan`` is called with another plan before anything
    changes for it.
    """

    def __init__(
        self,
        levels: Levels,
        plan: Plan,
        request: Request,
        costs: Callable[[], MeasuredCosts],
        before_forward: Callable[[], None] = lambda: None,
        on_plan: Callable[[Plan], None] = lambda plan: None,
    ) -> None:
        self.plan = plan
        self._on_plan = on_plan
        self._before_forward = before_forward
        self.target: OrtModel = levels.open_target(plan)
        self.drafters: dict[str, OrtModel] = levels.open_drafters(plan, self.target)
        table = open_draft_table(levels.bundle, levels.manifest)
        self.speculator = Speculator(
            self.target, self.drafters, plan.draft, levels.manifest, costs, levels.notify, table
        )
        self._levels, self._request = levels, request
        self._residences = levels.expected_residences() | {level.name: level.residence for level in plan.levels}
        self._next_plan: Plan | None = None
        self._stepping = RLock()  # taken first, where both are
        self._planning = RLock()
        self._watch_forwards()

    def close(self) -> None:
        """Frees the memory of all models; this object cannot be used afterwards."""
        with self._stepping:
            self._next_plan = None
            self.speculator.close()
            for model in (self.target, *self.drafters.values()):
                model.close()
            self.drafters = {}
            give_back()

    def mapped_files(self) -> list[Path]:
        """The files of mapped weights that steps read, the target's first."""
        manifest = self._levels.manifest
        models = {manifest.target.name: self.target, **self.drafters}
        return [file for name, model in models.items() for file in model.kernels.mapped_files(manifest.level(name))]

    def _watch_forwards(self) -> None:
        for model in (self.target, *self.drafters.values()):
            model.before_forward = self._before_forward

    def replan(self, budget_bytes: int) -> None:
        """Makes a plan for ``budget_bytes`` that takes effect before the next step, or now if no step runs.

        Context, KV type and kernels stay, so the text does not change. OverBudgetError if no such plan fits; then
        nothing changes. May be called from any thread.
        """
        with self._planning:
            self._next_plan = self._plan_for(budget_bytes)
        if self._stepping.acquire(blocking=False):
            try:
                self._follow_plan()
            finally:
                self._stepping.release()

    def _plan_for(self, budget_bytes: int) -> Plan:
        """The plan for ``budget_bytes`` with what cannot change; OverBudgetError."""
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
        return make_plan(levels.manifest, device, request, costs)

    def count_constraints(self) -> None:
        """Has the plan count constrained answers from now on; OverBudgetError if its budget cannot have room for them.

        Where it has none yet, a plan that gives up other things takes effect, as for a smaller budget. Waits for the
        end of a running step. May be called from any thread.
        """
        with self._stepping, self._planning:
            self._follow_plan()
            found = plan_with_constraints(self.plan, self._levels.manifest)
            request, self._request = self._request, replace(self._request, constrained=True)
            if found.needed_bytes <= found.budget_bytes:
                self.plan = found
                return
            try:
                self.replan(found.budget_bytes)
            except OverBudgetError as error:
                self._request = request
                needed = error.smallest_bytes
                raise OverBudgetError(no_constraints_text(self.plan, needed), needed) from None

    @contextmanager
    def still(self) -> Iterator[None]:
        """A context in which the open models do not change; a new plan takes effect after it."""
        with self._stepping:
            yield
            self._follow_plan()

    def steps(
        self,
        tokens: Sequence[int],
        stop: StoppingCriterion,
        strategy: Strategy,
        context: Context,
        refit: Refit,
        left_out: int,
    ) -> Generator[Step, None, None]:
        """The steps that continue ``tokens`` in ``context``; a new plan takes effect between two of them.

        When the context is full, ``refit`` decides which tokens are kept. ``left_out`` tokens of the conversation are
        missing before ``tokens``. LogitsError, with the target's name, if the target's logits are not finite.
        """

        def start(tokens: Sequence[int], stop: StoppingCriterion, left_out: int) -> Generator[Step, None, None]:
            context.hold(tokens)
            context.first = left_out
            return decode(
                self.target, context, strategy.drafters, strategy.scheduler, strategy.verifier, stop, strategy.drop
            )

        return self._within_plan(steps_with_refit(start, tokens, stop, context, refit, left_out))

    def score(self, tokens: Sequence[int], first: int, top: int) -> Generator[TokenLogprob, None, None]:
        """See ``scoring.score``; a new plan takes effect between two tokens."""
        return self._within_plan(score(self.target, tokens, first, top))

    def _within_plan(self, steps: Generator[_T, None, None]) -> Generator[_T, None, None]:
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
        """Changes the open models to the latest plan. Frees memory first, then takes more: at every moment they have
        at most what the larger of the two plans has, and ``plan`` is the new one when the rest is given back."""
        plan, self._next_plan = self._next_plan, None
        if plan is None:
            return
        self._on_plan(plan)
        kept = {name: model for name, model in self.drafters.items() if plan.level(name) is not None}
        self.speculator.use({}, DraftPlan("chain", 0))
        self.drafters = kept
        give_back()
        fit(self.target, plan.target, plan)
        self.drafters = self._levels.open_drafters(plan, self.target, kept)
        self._watch_forwards()
        self.speculator.use(self.drafters, plan.draft)
        give_back()
        self.plan = plan
