"""``python -m runtime bench memory``: measures the memory of a planned conversation, held in this process."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from memory.meter import PeakMeter
from memory.plan import Plan, PlanError, parse_plan
from memory.size import show_bytes
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.bench.memory.planned_conversation import ConversationMemory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder written by python -m export")
    parser.add_argument(
        "--plan", required=True, metavar="FILE", help="as python -m memory plan --json prints it; -: standard input"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Measures, then prints."""
    plan = _read_plan(options.plan)
    with PeakMeter() as meter:
        with meter.phase("libraries"):
            from runtime.bench.memory.planned_conversation import run_conversation
        measured = run_conversation(options.bundle, plan, meter, shared.say)
    print(json.dumps(asdict(measured), indent=2) if options.json else "\n".join(_lines(measured)))
    return 0


def _read_plan(name: str) -> Plan:
    if name == "-":
        return parse_plan(sys.stdin.read(), "the plan on standard input")
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(
            f"cannot read the plan in {name}: {error}; make one with python -m memory plan --json"
        ) from None
    return parse_plan(text, name)


def _lines(measured: ConversationMemory) -> list[str]:
    """The measurements as text."""
    phases = [
        f"{phase.name}: {show_bytes(phase.before.anonymous_bytes)} to {show_bytes(phase.after.anonymous_bytes)},"
        f" at most {show_bytes(phase.peak.anonymous_bytes)}"
        for phase in measured.phases
    ]
    parts = [
        f"{owner}: {part}: {show_bytes(count)}"
        for owner, held in measured.parts.items()
        for part, count in held.items()
    ]
    weights = [f"{name}: weights: {show_bytes(count)} of mapped files" for name, count in measured.weights.items()]
    peak = max(measured.loading.anonymous_bytes, measured.running.anonymous_bytes)
    last = f"{measured.tokens:,} tokens in {measured.steps:,} steps; at most {show_bytes(peak)} anonymous"
    return ["anonymous memory by phase", *phases, "", "by part", *parts, *weights, "", last]
