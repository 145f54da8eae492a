"""What the command lines of ``python -m memory`` and ``python -m runtime`` share: subcommands, errors, exit codes.

Exit codes: 0 done, 2 what a user can put right (one line says how), 130 interrupted, 141 the reader of the output went
away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import NoReturn

from export.manifest import PocketspecError

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        """See ``argparse``."""
        print(f"error: {message}; {self.prog} --help shows the options", file=sys.stderr)
        sys.exit(USAGE)


def make_parser(package: str, description: str, commands: Mapping[str, str]) -> Parser:
    """A parser with the modules of ``package.commands`` as subcommands: names and what they are for."""
    parser = Parser(prog=f"python -m {package}", description=description, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, purpose in commands.items():
        command = subparsers.add_parser(name, help=purpose, description=purpose.capitalize() + ".", allow_abbrev=False)
        import_module(f"{package}.commands.{name}").add_arguments(command)
    return parser


def run_command(package: str, parse: Callable[[], argparse.Namespace]) -> int:
    """Runs the command that ``parse`` finds and returns its exit code."""
    try:
        options = parse()
        return int(import_module(f"{package}.commands.{options.command}").run(options))
    except PocketspecError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered must not fail once more while Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
