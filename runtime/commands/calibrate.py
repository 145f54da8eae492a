"""``python -m runtime calibrate``: measures the cost of rows for every level of a bundle, and stores it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memory.machine import measured_on, this_command
from memory.progress_bars import ProgressBars
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.engine import Engine

# Forwards of up to 64 rows, so that the costs of long drafts and wide trees are measured and not extrapolated.
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

    shared.check_report(options.output)
    try:
        with _open(options) as engine:
            manifest = engine.manifest
            costs = calibrate(engine, options.quick, _show_progress)
            store_costs(engine, costs)
            sizes = {name: read_bytes(engine, manifest.level(name)) for name in costs.levels}
    except KeyboardInterrupt:
        shared.say("interrupted: nothing was stored")
        raise
    header = (f"`{this_command('runtime')}`", "", f"{measured_on()}.", "")
    text = "\n".join([*header, *cost_lines(manifest.name, costs, sizes)])
    print(text)
    if options.output is not None:
        shared.write_report(options.output, text if options.output.suffix == ".md" else dump_costs(costs).strip())
    return 0


def _open(options: argparse.Namespace) -> Engine:
    """An engine with every level open, and with room for more rows than drafts have."""
    from memory.device import read_device
    from memory.options import make_request
    from runtime.bundle.foreign import read_bundle
    from runtime.engine import Engine
    from runtime.models.timing_levels import TimingLevels
    from runtime.speculation.request import levels_below

    manifest = read_bundle(options.bundle)
    shape = "tree" if manifest.target.tree else "chain"
    drafters = tuple(levels_below(manifest))
    return Engine.open(
        options.bundle,
        make_request(options, read_device(), drafters=drafters, shape=shape, nodes=_NODES),
        verify=options.verify,
        warm=options.warm,
        kernels=options.kernels,
        notify=shared.say,
        progress=shared.show_progress,
        make_levels=TimingLevels,
    )


@contextmanager
def _show_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error, a line elsewhere."""
    if not sys.stderr.isatty():
        shared.say(f"{title} ({total:,} at most)")
        yield lambda count: None
        return
    with ProgressBars("items") as bars:
        bars.begin(title, total)
        yield bars.advance
