"""``python -m runtime``: run, look into and measure bundles.

Text goes to standard output and everything about it to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from memory.command_line import make_parser, run_command

# Each is a module in runtime.commands with add_arguments(parser) and run(options).
_COMMANDS = {
    "generate": "answer or continue a prompt, streaming the text",
    "chat": "talk with the model; earlier turns stay in the KV cache",
    "compare": "one answer without and one with speculation: same text, other speed",
    "inspect": "show what is in a bundle and verify its files",
    "bench": "measure plain and speculative decoding side by side",
    "calibrate": "measure what rows cost on every level of this device",
    "converse": "hold one conversation as planned and as is usual elsewhere",
    "probe": "measure what a planned conversation really takes",
    "kernels": "show which kernels run on this processor, test and time them",
    "doctor": "examine this device and a bundle, and say what to do where something is wrong",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return run_command("runtime", lambda: parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    return make_parser("runtime", "Runs exported models.", _COMMANDS).parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
