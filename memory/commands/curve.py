"""``python -m memory curve``: speed and context by budget, on the terminal and as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from memory.commands.plan import add_plan, read_inputs
from memory.curve import curve_lines, draw, make_curve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_plan(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="also draw the curve (needs matplotlib)")


def run(options: argparse.Namespace) -> int:
    """Prints the curve, and draws it."""
    manifest, device, request = read_inputs(options)
    points = make_curve(manifest, device, request)
    print("\n".join(curve_lines(manifest.name, points)))
    if options.output is not None:
        draw(manifest.name, points, options.output)
        print(f"drawn: {options.output}")
    return 0
