"""``python -m runtime``: run, look into and measure bundles.

Text goes to standard output and everything about it to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from memory.command_line import make_parser, run_command

# Each is a module in runtime.commands with add_arguments(parser) and run(options): "bench memory" is bench_memory.
_COMMANDS = {
    "generate": "answer or continue a prompt, streaming the text",
    "chat": "talk with the model; earlier turns stay in the KV cache",
    "serve": "an OpenAI-compatible server on this machine",
    "compare": "one answer without and one with speculation: same text, other speed",
    "perplexity": "measure how well the target predicts a text file",
    "inspect": "show what is in a bundle and verify its files",
    "bench": "measure plain and speculative decoding side by side",
    "bench conversation": "hold one conversation as planned and as is usual elsewhere",
    "bench memory": "measure what a planned conversation really takes",
    "calibrate": "measure what rows cost on every level of this device",
    "kernels": "show which kernels run on this processor, test and time them",
    "forget": "erase a suffix store, the texts that --suffix-store keeps",
    "doctor": "examine this device and a bundle, and say what to do where something is wrong",
}
_MOVED = {"converse": "bench conversation", "probe": "bench memory"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return run_command("runtime", lambda: parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. A command that has moved is found under its old name, and a line says where it is."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in _MOVED:
        now = _MOVED[words[0]]
        print(f"note: python -m runtime {words[0]} is python -m runtime {now} now", file=sys.stderr)
        words[:1] = now.split()
    return make_parser("runtime", "Runs exported models.", _COMMANDS).parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
