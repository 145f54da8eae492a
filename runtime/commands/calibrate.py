"""``python -m runtime calibrate``: measures what rows cost on every level of a bundle, and keeps it for this device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.commands import options as shared

# Forwards of 64 rows, so that long drafts and wide trees need not be guessed.
_NODES = 63


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.add_argument("--quick", action="store_true", help="the short form: a few row counts, in seconds")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the costs to FILE.md or FILE.json")


def run(options: argparse.Namespace) -> int:
    """Measures, stores, then prints the tables."""
    from memory.costs import dump_costs
    from runtime.calibration import calibrate, read_bytes, store_costs
    from runtime.calibration.report import cost_lines
    from runtime.foreign import read_bundle
    from runtime.speculation import levels_below

    shared.check_report(options.output)
    manifest = read_bundle(options.bundle)
    shape = "tree" if manifest.target.tree else "chain"
    drafters = tuple(levels_below(manifest))
    try:
        with shared.open_engine(options, drafters=drafters, shape=shape, nodes=_NODES) as engine:
            costs = calibrate(engine, options.quick, _show_progress)
            store_costs(engine, costs)
            sizes = {name: read_bytes(engine, manifest.level(name)) for name in costs.levels}
    except KeyboardInterrupt:
        shared.say("interrupted: nothing was stored")
        raise
    text = "\n".join(cost_lines(manifest.name, costs, sizes))
    print(text)
    if options.output is not None:
        shared.write_report(options.output, text if options.output.suffix == ".md" else dump_costs(costs).strip())
    return 0


@contextmanager
def _show_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error, a line elsewhere."""
    if not sys.stderr.isatty():
        shared.say(f"{title} ({total:,} at most)")
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
