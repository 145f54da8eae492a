"""``python -m memory verify``: runs the plan in a process of its own, and compares predicted with measured bytes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from memory.commands.plan import add_plan, read_inputs
from memory.machine import measured_on, this_command
from memory.plan import Plan
from memory.planner import make_plan
from memory.sweep import sweep_plans
from memory.verification import Row, Verification, verify_plan

# How far both sums of a prediction may be off.
_TOLERANCE = 0.04
_OFF = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_plan(parser)
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="not one plan but many: both kinds of kernels, KV types, contexts, drafts, chunks, levels; one row each",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each plan, a line each")


def run(options: argparse.Namespace) -> int:
    """Prints the comparison; exit code 1 if a sum is off by more than 4%."""
    manifest, device, request = read_inputs(options, both_kernels=options.sweep)
    if not options.sweep:
        found = verify_plan(options.bundle, make_plan(manifest, device, request))
        print(json.dumps(_as_json(found)) if options.json else "\n".join(_part_lines(found)))
        return 0 if _is_close(found) else _OFF
    if not options.json:
        print("\n".join([f"`{this_command('memory')}`", "", f"{measured_on()}.", "", *_HEAD]))
    off = 0
    for plan in sweep_plans(manifest, device, request):
        found = verify_plan(options.bundle, plan)
        off += not _is_close(found)
        print(json.dumps(_as_json(found)) if options.json else _sweep_line(found), flush=True)
    print(f"{off} of the plans off by more than {_TOLERANCE:.0%}", file=sys.stderr)
    return _OFF if off else 0


_HEAD = (
    "| bundle | kernels | KV | context | draft | chunk | levels | anonymous, MB: predicted | measured | | in all:"
    " predicted | measured | |",
    "| --- " * 13 + "|",
)


def _is_close(found: Verification) -> bool:
    return max(abs(found.anonymous.difference), abs(found.total.difference)) <= _TOLERANCE


def _sweep_line(found: Verification) -> str:
    plan = found.plan
    cells = [
        plan.bundle,
        "native" if plan.target.residence == "native" else "portable",
        plan.target.kv_type,
        f"{plan.context:,}",
        _draft(plan),
        str(plan.prefill_chunk),
        str(len(plan.levels)),
    ]
    for row in (found.anonymous, found.total):
        cells += [f"{row.predicted / 1e6:.1f}", f"{row.measured / 1e6:.1f}", f"{row.difference:+.1%}"]
    return f"| {' | '.join(cells)} |"


def _draft(plan: Plan) -> str:
    return f"{plan.draft.shape} of {plan.draft.nodes}" if plan.draft.nodes else "none"


def _part_lines(found: Verification) -> Iterator[str]:
    width = max(len(row.name) for row in found.parts)
    yield f"{'MB':{width}}  {'predicted':>10}  {'measured':>10}"
    for row in found.parts:
        yield _row_line(row, width)
    yield ""
    for row in (found.anonymous, found.total):
        yield f"{_row_line(row, width)}  {row.difference:+.1%}"
    yield f"{'margin of the plan':{width}}  {found.plan.margin_bytes / 1e6:>10,.2f}"


def _row_line(row: Row, width: int) -> str:
    return f"{row.name:{width}}  {row.predicted / 1e6:>10,.2f}  {row.measured / 1e6:>10,.2f}"


def _as_json(found: Verification) -> dict[str, object]:
    rows = {row.name: {"predicted": row.predicted, "measured": row.measured} for row in found.parts}
    return {
        "plan": asdict(found.plan),
        "parts": rows,
        "anonymous": asdict(found.anonymous),
        "total": asdict(found.total),
    }
