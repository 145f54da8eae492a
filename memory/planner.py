"""Makes the plan: a pure function from manifest, device and request, in a few milliseconds.

The planner walks down the ladder to the first rung that fits the budget. If none fits, the request is refused with the
bytes that are missing and the smallest budget that would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from export.manifest import DRAFT_TABLE_NAME, Manifest
from memory.build import build_plan
from memory.choices import (
    CHAIN_SIZES,
    PREFILL_CHUNKS,
    TREE_SIZES,
    Choices,
    PlanInputs,
    Request,
    check_request,
    wanted_context,
)
from memory.costs import MeasuredCosts
from memory.device import Device
from memory.experts import read_share
from memory.footprint import APPLICATION, CONSTRAINTS, EXPERTS, SUFFIX_STORE
from memory.forward_costs import forward_costs
from memory.ladder import Rung, rungs
from memory.plan import Bounds, GivenUp, OverBudgetError, Placement, Plan, Shape
from memory.refusal import refusal_text, unavailable_text
from memory.speed import Predictor

# Bytes a second that a solid-state disk gives to random reads of a few megabytes. A guess, used for a warning alone.
_DISK_BANDWIDTH = 500e6
# An intermediate takes memory, so it must promise this gain in speed: smaller ones are within the error of predictions.
_HIERARCHY_GAIN = 1.03


def make_plan(manifest: Manifest, device: Device, request: Request, costs: MeasuredCosts | None = None) -> Plan:
    """The best plan within the budget; OverBudgetError if not even plain decoding fits.

    ``costs`` are those measured on this device. Without any, or if they are of other kernels, the reference machine's
    are used.
    """
    return make_planner(manifest, device, request, costs).plan()


def make_plans(manifest: Manifest, device: Device, request: Request, costs: MeasuredCosts | None = None) -> list[Plan]:
    """The plans of all rungs. Each is the best for budgets from its ``needed_bytes`` up to those of the one before."""
    return make_planner(manifest, device, request, costs).ladder(device.total_bytes)[1]


def make_planner(manifest: Manifest, device: Device, request: Request, costs: MeasuredCosts | None = None) -> Planner:
    """The planner for a request; PocketspecError if no amount of memory can satisfy it."""
    inputs = PlanInputs(manifest, device, request)
    check_request(inputs)
    return Planner(inputs, Predictor(inputs, forward_costs(inputs, costs)))


@dataclass(frozen=True)
class Planner:
    """Plans for one manifest, device and request."""

    inputs: PlanInputs
    predictor: Predictor

    def plan(self) -> Plan:
        """See ``make_plan``."""
        device, wanted = self.inputs.device, self.inputs.request.budget_bytes
        budget = device.usable_bytes if wanted is None else min(wanted, device.total_bytes)
        ladder, plans = self.ladder(budget)
        place = next((place for place, plan in enumerate(plans) if plan.needed_bytes <= budget), len(plans) - 1)
        found = replace(plans[place], given_up=tuple(_given_up(ladder[: place + 1], plans)))
        if found.needed_bytes > budget:
            found = self._from_disk(found, budget)
        return replace(found, warnings=tuple(self._warnings(found)))

    def ladder(self, budget: int) -> tuple[list[Rung], list[Plan]]:
        """All rungs and their plans."""
        made: dict[Choices, Plan] = {}

        def weigh(choices: Choices) -> int:
            made[choices] = self._make(choices, budget)
            return made[choices].needed_bytes

        ladder = list(rungs(self.start(), self.inputs, weigh))
        plans = [made[rung.choices] for rung in ladder]
        bounds = _bounds(ladder, plans)
        return ladder, [replace(plan, bounds=bounds) for plan in plans]

    def start(self) -> Choices:
        """The top of the ladder: every drafter that could pay on some text, and the smallest draft with room for it."""
        inputs, request = self.inputs, self.inputs.request
        context = wanted_context(inputs.manifest, request)
        named = tuple(level.name for level in inputs.manifest.drafters() if inputs.can_run(level.name))
        drafters = named if request.drafters is None else request.drafters
        if request.nodes == 0:
            drafters = ()
        shape, nodes = self._largest_draft()
        turn = -(-context // request.turns)
        start = Choices(
            context=context,
            shape=shape,
            nodes=nodes,
            drafters=drafters,
            window=context if drafters else 0,
            drafter_kv_type="fp32",
            kv_type=request.kv_type or inputs.kv_types(inputs.manifest.target.name)[0],
            prefill_chunk=request.prefill_chunk
            or min((c for c in PREFILL_CHUNKS if c >= turn), default=PREFILL_CHUNKS[0]),
            kept_conversations=request.kept_conversations,
        )
        if request.drafters is None and drafters:
            start = replace(start, drafters=(*drafters, *self._middle(start)))
        if request.nodes is not None or not drafters:
            return start
        # With a fixed width every step pays for the largest draft, so it is the best one that counts.
        choose = self.predictor.best_shape if request.fixed_width else self.predictor.room
        shape, nodes = choose(start, request.shape)
        return replace(start, shape=shape, nodes=nodes)

    def _middle(self, start: Choices) -> tuple[str, ...]:
        """The intermediate with which decoding is clearly faster than without any; empty if there is none."""
        rates = {}
        for level in self.inputs.manifest.levels:
            if level.role == "intermediate":
                beside = replace(start, drafters=(*start.drafters, level.name))
                rates[level.name] = self.predictor.best_hierarchy(beside, level.name)
        best = max(rates, key=rates.__getitem__, default=None)
        pays = best is not None and rates[best] >= _HIERARCHY_GAIN * self.predictor.tokens_per_second(start)
        return (best,) if best is not None and pays else ()

    def _largest_draft(self) -> tuple[Shape, int]:
        """The draft that the user asked for, or the largest there is."""
        request = self.inputs.request
        if request.nodes is not None or request.shape == "chain" or not self.inputs.manifest.target.tree:
            return request.shape or "chain", CHAIN_SIZES[0] if request.nodes is None else request.nodes
        if request.drafters == () or not self.inputs.manifest.drafters():
            return "tree" if DRAFT_TABLE_NAME in self.inputs.manifest.files else "chain", CHAIN_SIZES[0]
        return "tree", TREE_SIZES[0]

    def _make(self, choices: Choices, budget: int) -> Plan:
        return build_plan(self.inputs, choices, budget, self.predictor.tokens_per_second(choices))

    def _from_disk(self, leanest: Plan, budget: int) -> Plan:
        """The leanest plan with weights that are read from disk in every step; OverBudgetError if it is not allowed."""
        missing = leanest.needed_bytes - budget
        if "disk" not in self.inputs.request.may_give_up or missing > leanest.hot_bytes:
            device = self.inputs.device if self.inputs.request.budget_bytes is None else None
            raise OverBudgetError(refusal_text(leanest, budget, device), leanest.needed_bytes)
        seconds = 1 / leanest.tokens_per_second + self._read_from_disk(leanest, missing) / _DISK_BANDWIDTH
        return replace(leanest, disk_bytes=missing, tokens_per_second=1 / seconds)

    def _read_from_disk(self, plan: Plan, missing: int) -> int:
        """Bytes that a step of ``plan`` reads from disk if ``missing`` bytes of weights are not in memory.

        They are those of experts as far as there are any, since a step reads few of them.
        """
        experts = self.inputs.manifest.target.shape.experts
        spared = min(plan.target.footprint.part(EXPERTS).hot, missing)
        share = 1.0 if experts is None else read_share(experts, 1 + plan.draft.nodes)
        return missing - spared + int(spared * share)

    def _warnings(self, plan: Plan) -> Iterator[str]:
        device, wanted = self.inputs.device, self.inputs.request.budget_bytes
        if wanted is not None and wanted > device.total_bytes:
            yield (
                f"a budget of {wanted:,} bytes is more than the {device.total_bytes:,} there are here, which are taken"
                " instead"
            )
        if plan.disk_bytes:
            read = self._read_from_disk(plan, plan.disk_bytes)
            some = f", about {read:,} bytes each" if read < plan.disk_bytes else ""
            yield (
                f"{plan.disk_bytes:,} of the {plan.hot_bytes:,} bytes that steps read do not fit the budget:"
                f" steps read them from disk{some}, many times slower; a larger budget or a smaller model avoids that"
            )
        if plan.total_bytes - plan.disk_bytes > device.attainable_bytes:
            yield f"it will not be loaded: {unavailable_text(plan, device, plan.total_bytes - plan.disk_bytes)}"


def request_of(plan: Plan) -> Request:
    """The request that leads to ``plan``, for planning again within another budget."""
    return Request(
        context=plan.context,
        turns=plan.turns,
        budget_bytes=plan.budget_bytes,
        drafters=tuple(level.name for level in plan.levels[1:]),
        shape=plan.draft.shape,
        nodes=plan.draft.nodes,
        kv_type=plan.target.kv_type,
        prefill_chunk=plan.prefill_chunk,
        threads=plan.threads,
        placements={level.name: level.placement for level in plan.levels if level.placement != Placement()},
        fixed_width=plan.fixed_width,
        kept_conversations=plan.kept_conversations,
        application_bytes=plan.process.part(APPLICATION).anonymous,
        constrained=plan.process.part(CONSTRAINTS).anonymous > 0,
        suffix_store_bytes=plan.process.part(SUFFIX_STORE).anonymous,
    )


def require_available(plan: Plan, device: Device) -> None:
    """OverBudgetError unless the planned bytes are available on the device now."""
    needed = plan.total_bytes - plan.disk_bytes
    if needed > device.attainable_bytes:
        raise OverBudgetError(unavailable_text(plan, device, needed), needed)


def _bounds(ladder: Sequence[Rung], plans: Sequence[Plan]) -> Bounds:
    """The smallest budgets for the whole context: with drafts by the kind of drafter at the top, and without drafts."""
    first = ladder[0].choices
    whole = [(rung.choices, plan) for rung, plan in zip(ladder, plans, strict=True) if plan.context == first.context]
    drafting = [
        plan.needed_bytes for choices, plan in whole if choices.nodes and bool(choices.drafters) == bool(first.drafters)
    ]
    return Bounds(min(drafting, default=None), min(plan.needed_bytes for _, plan in whole))


def _given_up(ladder: Sequence[Rung], plans: Sequence[Plan]) -> Iterator[GivenUp]:
    """One entry for each step that was taken, over all of its rungs together."""
    for place, rung in enumerate(ladder):
        is_last = place == len(ladder) - 1 or ladder[place + 1].step is not rung.step
        if rung.step is None or not is_last:
            continue
        before = max(i for i in range(place) if ladder[i].step is not rung.step)
        change = f"{rung.step.show(ladder[before].choices)} -> {rung.step.show(rung.choices)}"
        yield GivenUp(rung.step.name, change, plans[before].total_bytes - plans[place].total_bytes, rung.step.reason)
