"""The table of plans: for each context, kind of kernels and KV type every plan there is, by budget.

Programs that cannot run the planner, such as an app on a phone, choose from it. The process's own bytes are left out,
because they depend on the program and the device: who chooses adds what it measures of itself once a first session has
run and is closed again. ``needed_bytes`` is the whole calculation. "tokenizer", "tokens", "sampling" and "suffix index"
are the program's own objects; everything else is native memory, and "objects" what its heap loses to fragmentation.

A bundle's table is ``plans.json``. It names the files that it was made for, so a table of another bundle is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from export.manifest import FileEntry, Manifest
from memory.arena import level_blocks
from memory.choices import DEFAULT_CONTEXT, PlanInputs, Request
from memory.device import Device
from memory.footprint import GRAPH_BYTES, Footprint, margin_bytes
from memory.ladder import STEPS, Rung
from memory.plan import LevelPlan, Plan
from memory.planner import make_planner
from memory.process import KernelKind, ProcessBytes

SCHEMA = 2
FILE_NAME = "plans.json"
CONTEXTS = (512, 1024, 2048, DEFAULT_CONTEXT)
KERNELS: tuple[KernelKind, ...] = ("native", "portable")
# As many as most phones have fast cores.
DEFAULT_THREADS = 4
# A process whose own bytes are all measured, those of its first session among them. That session was closed, and what
# is counted as the first one opens the target's graph.
OWN_MEASURED = ProcessBytes(0, GRAPH_BYTES, 0)
# More than any device has: the table is made for all budgets.
_PLENTY = 1 << 60


@dataclass(frozen=True)
class Column:
    """The plans for one context and one kind of kernels, the one for the largest budgets first.

    ``kv_type``: of the target's cache; None: planned, as for a new conversation. Only the latter may get narrower.
    """

    context: int
    kernels: KernelKind
    kv_type: str | None
    rungs: tuple[Rung, ...]
    plans: tuple[Plan, ...]


def table_contexts(manifest: Manifest) -> tuple[int, ...]:
    """The contexts on offer: those of ``CONTEXTS`` that the target can have, or all of its positions."""
    positions = manifest.target.shape.positions
    return (*(context for context in CONTEXTS if context < positions), min(positions, CONTEXTS[-1]))[: len(CONTEXTS)]


def table_device(manifest: Manifest, kernels: KernelKind, process: ProcessBytes, threads: int) -> Device:
    """The device that a table is made for. Phones have no prepacked files: ONNX Runtime copies portable weights."""
    is_native = {level.name: kernels == "native" and level.native is not None for level in manifest.levels}
    return Device(
        _PLENTY,
        _PLENTY,
        cores=threads,
        kernels=kernels,
        residences={name: "native" if native else "copied" for name, native in is_native.items()},
        processes=dict.fromkeys(KERNELS, process),
        one_caller=True,
    )


def make_columns(manifest: Manifest, request: Request) -> Iterator[Column]:
    """All columns of the table of ``manifest``, with the ``threads`` and the largest draft of ``request``."""
    threads = request.threads or DEFAULT_THREADS
    for context in table_contexts(manifest):
        for kernels in KERNELS:
            device = table_device(manifest, kernels, OWN_MEASURED, threads)
            kv_types = PlanInputs(manifest, device, request).kv_types(manifest.target.name)
            for kv_type in (None, *kv_types):
                planner = make_planner(manifest, device, replace(request, context=context, kv_type=kv_type))
                rungs, plans = planner.ladder(_PLENTY)
                yield Column(context, kernels, kv_type, tuple(rungs), tuple(plans))


def needed_bytes(anonymous: int, hot: int, process: ProcessBytes) -> int:
    """The least budget of a plan of the table in a ``process`` with these ``modules`` and ``files``."""
    anonymous, hot = anonymous + process.modules, hot + process.files
    return anonymous + hot + margin_bytes(anonymous, hot, constrained=False)


def bundle_key(files: Mapping[str, FileEntry]) -> str:
    """What a table names its bundle by: SHA-256 over names and hashes of all files but the table itself."""
    lines = sorted(f"{name} {entry.sha256}\n" for name, entry in files.items() if name != FILE_NAME)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def dump_table(manifest: Manifest, request: Request) -> str:
    """The table as JSON text: what plans have in common is listed once, and each column is a line."""
    levels, processes = _Listed(), _Listed()
    threads = request.threads or DEFAULT_THREADS
    columns = []
    for column in make_columns(manifest, request):
        inputs = PlanInputs(manifest, table_device(manifest, column.kernels, OWN_MEASURED, threads), request)
        plans = [
            {**_plan_data(inputs, plan, levels, processes), "given_up": _given_up(column, place)}
            for place, plan in enumerate(column.plans)
        ]
        head = {"context": column.context, "kernels": column.kernels, "kv_type": column.kv_type}
        columns.append({**head, "plans": plans})
    table = {
        "schema": SCHEMA,
        "bundle": manifest.name,
        "key": bundle_key(manifest.files),
        "threads": threads,
        "reasons": {step.name: step.reason for step in STEPS},
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in table.items()]
    lines += [_list_lines("levels", levels.entries), _list_lines("processes", processes.entries)]
    lines.append(_list_lines("columns", columns))
    return "{\n" + ",\n".join(lines) + "\n}\n"


class _Listed:
    """Entries that are listed once and referred to by their place."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, entry: Any) -> int:
        """Where ``entry`` is listed."""
        place = self._places.setdefault(json.dumps(entry), len(self.entries))
        if place == len(self.entries):
            self.entries.append(entry)
        return place


def _list_lines(name: str, entries: list[Any]) -> str:
    return f" {json.dumps(name)}: [\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]"


def _plan_data(inputs: PlanInputs, plan: Plan, levels: _Listed, processes: _Listed) -> dict[str, Any]:
    return {
        "anonymous": plan.anonymous_bytes,
        "hot": plan.hot_bytes,
        "loading": plan.loading_bytes,
        "draft": asdict(plan.draft),
        "prefill_chunk": plan.prefill_chunk,
        "tokens_per_second": round(plan.tokens_per_second, 3),
        "levels": [levels.place(_level_data(inputs, level, plan.prefill_chunk)) for level in plan.levels],
        "process": processes.place(_parts(plan.process)),
    }


def _given_up(column: Column, place: int) -> dict[str, Any] | None:
    """The step that led to the plan at ``place``: from where it began to here, with the bytes that this saved."""
    step = column.rungs[place].step
    if step is None:
        return None
    before = max(i for i in range(place) if column.rungs[i].step is not step)
    return {
        "step": step.name,
        "change": f"{step.show(column.rungs[before].choices)} -> {step.show(column.rungs[place].choices)}",
        "saved": column.plans[before].total_bytes - column.plans[place].total_bytes,
    }


def _level_data(inputs: PlanInputs, plan: LevelPlan, prefill_chunk: int) -> dict[str, Any]:
    names = ("name", "role", "residence", "kv_type", "capacity", "max_rows", "tree", "logits_rows")
    blocks = level_blocks(inputs.levels[plan.name], plan, prefill_chunk)
    return {
        **{name: getattr(plan, name) for name in names},
        "threads": inputs.threads(plan.name),
        "parts": _parts(plan.footprint),
        "blocks": [asdict(block) for block in blocks],
    }


def _parts(footprint: Footprint) -> dict[str, list[int]]:
    """Anonymous and hot bytes by part; parts without any are left out."""
    return {part.name: [part.anonymous, part.hot] for part in footprint.parts if part.anonymous or part.hot}
