"""``python -m runtime``: run, look into and measure bundles.

Text goes to standard output and everything about it to standard error. Exit codes: 0 done, 2 what a user can put right
(one line says how), 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from export.manifest import PocketspecError

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

# Each is a module in runtime.commands with add_arguments(parser) and run(options).
_COMMANDS = {
    "generate": "answer or continue a prompt, streaming the text",
    "chat": "talk with the model; earlier turns stay in the KV cache",
    "compare": "one answer without and one with speculation: same text, other speed",
    "inspect": "show what is in a bundle and verify its files",
    "bench": "measure plain and speculative decoding side by side",
    "kernels": "show which kernels run on this processor, test and time them",
}


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; {self.prog} --help shows the options", file=sys.stderr)
        sys.exit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        options = parse(arguments)
        return int(import_module(f"runtime.commands.{options.command}").run(options))
    except PocketspecError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered must not fail once more while Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; a prompt may stand behind options as well as before them."""
    parser = _make_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes an optional positional for absent as soon as the one before it is followed by an option.
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(options, "prompt", "") is None:
        options.prompt = rest.pop()
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m runtime", description="Runs exported models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, purpose in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose.capitalize() + ".", allow_abbrev=False)
        import_module(f"runtime.commands.{name}").add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
