"""``python -m memory``: plans before anything is loaded, and compares plans with measurements."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from memory.command_line import make_parser, run_command

# Each is a module in memory.commands with add_arguments(parser) and run(options).
_COMMANDS = {
    "plan": "decide every size for a bundle and a budget, without loading a weight",
    "verify": "run the plan in a process of its own, and show predicted beside measured bytes",
    "curve": "predicted tokens a second and context against the budget",
    "plans": "write every plan of a bundle, for apps that choose one without a planner",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return run_command("memory", lambda: parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    return make_parser("memory", "Plans the memory of exported models.", _COMMANDS).parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
