"""The plan: every size that the runtime will use, fixed before an inference session exists.

It is a frozen value, written and read as JSON. ``plan.schema.json`` describes the file for other programs.
``memory.planner`` makes it; the runtime opens nothing that is not in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from export.manifest import Manifest, PocketspecError
from export.records import build_record
from export.untrusted import UntrustedError, parse_own_json, shown
from memory.device import Residence
from memory.footprint import STATES, Footprint

SCHEMA = 1

Shape = Literal["chain", "tree"]


class PlanError(PocketspecError, ValueError):
    """A plan that cannot be read, or that is for another bundle."""


class OverBudgetError(PocketspecError, ValueError):
    """Not even the leanest plan fits. The message has the missing bytes; ``smallest_bytes`` is the least budget."""

    def __init__(self, message: str, smallest_bytes: int) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes


@dataclass(frozen=True)
class Placement:
    """What of the device a level runs on: an execution provider of ONNX Runtime, ``threads``, and ``cores``.

    ``cores`` are the system's numbers of the processors that the threads stay on; empty: the system decides.
    ``threads`` None means one for each of the cores, and without cores as many as the plan has for all levels.
    """

    provider: str = "CPUExecutionProvider"
    threads: int | None = None
    cores: tuple[int, ...] = ()

    def threads_of(self, others: int | None) -> int | None:
        """The threads of a level with this placement; ``others`` are those of levels without one of their own."""
        return self.threads or len(self.cores) or others


@dataclass(frozen=True)
class LevelPlan:
    """One level as it will be opened.

    The KV cache begins with ``first_capacity`` rows and grows by ``growth`` rows at a time up to ``capacity`` (0: it
    has all rows at once). A forward of a draft, which is a tree if ``tree``, has at most ``max_rows`` rows and gives
    the logits of ``logits_rows`` of them. The last ``hidden_rows`` hidden rows are kept for drafters that read them.
    """

    name: str
    role: str
    residence: Residence
    kv_type: str
    capacity: int
    first_capacity: int
    growth: int
    max_rows: int
    tree: bool
    logits_rows: int
    footprint: Footprint
    placement: Placement = Placement()
    hidden_rows: int = 0


@dataclass(frozen=True)
class DraftPlan:
    """The largest draft: ``nodes`` nodes in ``shape``; with 0 nodes decoding is plain."""

    shape: Shape
    nodes: int


@dataclass(frozen=True)
class GivenUp:
    """One step down the ladder: its name, the ``change`` from what to what, the bytes saved, and why this step."""

    step: str
    change: str
    saved_bytes: int
    reason: str


@dataclass(frozen=True)
class Bounds:
    """The smallest budgets for the same request: with speculation (None: there is none), and for plain decoding."""

    speculative_bytes: int | None
    plain_bytes: int


@dataclass(frozen=True)
class Plan:
    """Every size the runtime uses, and what it will cost.

    ``context``: tokens of prompt and answers together at most, in a conversation of ``turns`` turns.
    ``prefill_chunk``: rows of a prompt that run at once. ``threads``: of levels without a placement of their own.
    ``process``: the bytes that all levels share. ``loading_bytes``: the peak of anonymous bytes while loading.
    ``margin_bytes``: how far the prediction may be off, and the system's page tables. ``disk_bytes``: of the hot bytes,
    those that do not fit the budget and are read from disk in every step. ``tokens_per_second``: predicted.
    ``warnings``: sentences that a user should read before the plan runs. ``fixed_width``: the target runs the same
    number of rows in every step. ``kept_conversations`` beside the current one may keep copies of their KV rows.
    """

    bundle: str
    context: int
    turns: int
    draft: DraftPlan
    prefill_chunk: int
    threads: int | None
    budget_bytes: int
    process: Footprint
    levels: tuple[LevelPlan, ...]
    loading_bytes: int
    margin_bytes: int
    tokens_per_second: float
    bounds: Bounds
    disk_bytes: int = 0
    given_up: tuple[GivenUp, ...] = ()
    warnings: tuple[str, ...] = ()
    fixed_width: bool = False
    kept_conversations: int = 0
    schema: int = SCHEMA

    @property
    def anonymous_bytes(self) -> int:
        """The predicted peak of anonymous bytes, without the margin."""
        return max(self.running_bytes, self.loading_bytes)

    @property
    def running_bytes(self) -> int:
        """The predicted peak of anonymous bytes once everything is loaded."""
        return self.process.anonymous + sum(level.footprint.anonymous for level in self.levels)

    @property
    def hot_bytes(self) -> int:
        """Bytes of mapped files that every step reads: if they do not stay in memory, steps read from disk."""
        return self.process.hot + sum(level.footprint.hot for level in self.levels)

    @property
    def cold_bytes(self) -> int:
        """Bytes of mapped files that the system may evict without slowing steps down."""
        return self.process.cold + sum(level.footprint.cold for level in self.levels)

    @property
    def total_bytes(self) -> int:
        """Anonymous and hot bytes together."""
        return self.anonymous_bytes + self.hot_bytes

    @property
    def needed_bytes(self) -> int:
        """The budget that this plan needs: ``total_bytes`` and the margin, less ``disk_bytes``."""
        return self.total_bytes + self.margin_bytes - self.disk_bytes

    @property
    def target(self) -> LevelPlan:
        """The level whose output is reproduced exactly."""
        return self.levels[0]

    def threads_of(self, level: LevelPlan) -> int | None:
        """Threads that work on one operator of ``level``; None: as many as there are cores."""
        return level.placement.threads_of(self.threads)

    def level(self, name: str) -> LevelPlan | None:
        """The plan of level ``name``; None if it is not opened."""
        return next((level for level in self.levels if level.name == name), None)


def dump_plan(plan: Plan) -> str:
    """The plan as JSON text."""
    return json.dumps(asdict(plan), indent=2) + "\n"


def parse_plan(text: str, where: str = "the plan") -> Plan:
    """The plan in JSON ``text``, as ``dump_plan`` wrote it; PlanError names ``where`` and what is wrong."""
    try:
        data = parse_own_json(text)
    except UntrustedError as error:
        raise PlanError(f"{where} {error}; make it again with python -m memory plan --json") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise PlanError(f"{where} has plan schema {shown(found)}, this version reads {SCHEMA}; make the plan again")
    try:
        plan: Plan = build_record(Plan, data, where)
    except UntrustedError as error:
        raise PlanError(str(error)) from None
    if not plan.levels or plan.levels[0].role != "target":
        raise PlanError(f"{where} does not begin with a target; make the plan again")
    return plan


def check_plan(plan: Plan, manifest: Manifest) -> None:
    """PlanError unless ``plan`` was made for this bundle."""
    known = {level.name for level in manifest.levels}
    unknown = [level.name for level in plan.levels if level.name not in known]
    if plan.bundle != manifest.name or unknown:
        what = f"names level {unknown[0]!r}" if unknown else f"is for bundle {plan.bundle!r}"
        raise PlanError(f"this plan {what}, and the bundle is {manifest.name!r}; make the plan again")
    for level in plan.levels:
        states = any(part.name == STATES for part in level.footprint.parts)
        if states != manifest.level(level.name).shape.has_states:
            words = ("states", "has none") if states else ("no states", "has some")
            raise PlanError(
                f"this plan counts {words[0]} of level {level.name!r}, which {words[1]}; make the plan again"
            )
