"""Compares predicted with measured bytes: ``python -m runtime bench memory`` runs a plan in a process of its own.

The runtime is started as a process, not imported, because the planner knows nothing of what runs its plans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.manifest import PocketspecError
from memory.child import run_module
from memory.footprint import LIBRARIES
from memory.plan import Plan, dump_plan


class VerificationError(PocketspecError, RuntimeError):
    """The plan could not be run; the message is that of the process that tried."""


@dataclass(frozen=True)
class Row:
    """Predicted and measured bytes of one part."""

    name: str
    predicted: int
    measured: int

    @property
    def difference(self) -> float:
        """(predicted - measured) / measured; 0 where nothing was measured."""
        return self.predicted / self.measured - 1 if self.measured else 0.0


@dataclass(frozen=True)
class Verification:
    """The parts of one plan, and two sums: the peak of anonymous bytes, and all bytes that must stay in memory."""

    plan: Plan
    parts: tuple[Row, ...]
    anonymous: Row
    total: Row


def verify_plan(bundle: Path, plan: Plan) -> Verification:
    """Runs ``plan`` and compares; VerificationError if it cannot be run."""
    done = run_module("runtime", "bench", "memory", str(bundle), "--plan", "-", "--json", given=dump_plan(plan))
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        reason = lines[-1].removeprefix("error: ") if lines else f"it ended with exit code {done.returncode}"
        raise VerificationError(f"the plan for {plan.bundle} could not be run: {reason}")
    return compare(plan, json.loads(done.stdout))


def compare(plan: Plan, measured: Mapping[str, Any]) -> Verification:
    """``plan`` beside what was ``measured`` of it, the JSON data of ``bench memory``.

    Sessions, scratch of their threads, activations and sampling are one row for all levels. They cannot be told apart
    from outside: a session uses pages that the tokenizer has freed, and scratch grows in the first forwards.
    """
    parts, running = measured["parts"], measured["running"]
    libraries = plan.process.part(LIBRARIES)
    rows = [
        Row(LIBRARIES, libraries.anonymous, parts["process"][LIBRARIES]),
        Row(f"{LIBRARIES}, files", libraries.hot, running["file_bytes"] - sum(measured["weights"].values())),
        Row("tokenizer", plan.process.part("tokenizer").anonymous, parts["process"]["tokenizer"]),
    ]
    rest = parts["process"]["activations"]
    for level in plan.levels:
        footprint, held = level.footprint, parts[level.name]
        rest += held["session"]
        rows.append(Row(f"{level.name}: weights, files", footprint.hot, measured["weights"][level.name]))
        rows += [
            Row(f"{level.name}: {name}", footprint.part(name).anonymous, held[name])
            for name in ("KV cache", "logits", "inputs")
        ]
    listed = sum(row.predicted for row in rows if not row.name.endswith("files"))
    rows.append(Row("sessions, scratch, activations, sampling", plan.running_bytes - listed, rest))
    peak = max(measured["loading"]["anonymous_bytes"], running["anonymous_bytes"])
    return Verification(
        plan,
        tuple(rows),
        anonymous=Row("anonymous, at most", plan.anonymous_bytes, peak),
        total=Row(
            "in all while running",
            plan.running_bytes + plan.hot_bytes,
            running["anonymous_bytes"] + running["file_bytes"],
        ),
    )
