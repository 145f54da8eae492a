"""What the command lines of this project share: subcommands, the order of options, errors and exit codes.

Exit codes: 0 done; 2 an error that the user can put right, and one line says how; 130 interrupted; 141 the reader of
the output went away.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

from export.manifest import PocketspecError
from memory.streams import OutputError, discard_output, safe_streams

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


# What argparse takes for a number rather than an option.
_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one line, and takes options before, between and behind other words.

    A word that begins with a dash is an option, unless it stands behind ``--``, is a dash alone or a number, or has a
    space in it: then it is text.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See ``argparse``."""
        words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._command(words) if self._subparsers else self._in_order(words), namespace)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """A value of two dashes is kept; until Python 3.13 argparse drops it (gh-59317)."""
        if arg_strings != ["--"]:
            return super()._get_values(action, arg_strings)
        value = self._get_value(action, "--")
        self._check_value(action, value)
        return value

    def _command(self, words: list[str]) -> list[str]:
        """``words`` with the first two as one where they name a command of two words, as in "bench memory"."""
        assert self._subparsers is not None
        (commands,) = self._subparsers._group_actions
        named = " ".join(words[:2])
        return [named, *words[2:]] if named in (commands.choices or ()) else words

    def _in_order(self, words: Sequence[str]) -> list[str]:
        """Options with their values first, then ``--`` and the rest: argparse cannot parse them mixed."""
        options, rest, left = list[str](), list[str](), list(words)
        while left:
            word = left.pop(0)
            if word == "--":
                rest += left
                break
            name, joined, _ = word.partition("=")
            action = self._option_string_actions.get(name)
            if action is None and _is_text(word):
                rest.append(word)
            elif action is None:
                behind = (
                    "" if not self._get_positional_actions()[1:] else "; text that begins with a dash stands behind --"
                )
                self.error(f"unrecognized arguments: {word}{behind}")
            elif joined or action.nargs == 0 or not left or left[0] == "--" or left[0] in self._option_string_actions:
                options.append(word)
            else:
                options.append(f"{word}={left.pop(0)}")
        return [*options, "--", *rest] if rest else options

    def error(self, message: str) -> NoReturn:
        """See ``argparse``."""
        print(f"error: {message}; {self.prog} --help shows the options", file=sys.stderr)
        sys.exit(USAGE)


def make_parser(package: str, description: str, commands: Mapping[str, str]) -> Parser:
    """A parser with the modules of ``package.commands`` as subcommands.

    ``commands`` maps their names, of a word or two, to what they are for.
    """
    parser = Parser(prog=f"python -m {package}", description=description, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, purpose in commands.items():
        command = subparsers.add_parser(name, help=purpose, description=purpose.capitalize() + ".", allow_abbrev=False)
        _module(package, name).add_arguments(command)
    return parser


def run_command(package: str, parse: Callable[[], argparse.Namespace]) -> int:
    """Runs the command in the options that ``parse`` gives; returns its exit code."""

    def run() -> int:
        options = parse()
        return int(_module(package, options.command).run(options))

    return run_program(run)


def _module(package: str, command: str) -> Any:
    return import_module(f"{package}.commands.{command.replace(' ', '_')}")


def run_program(run: Callable[[], int], interrupted: str = "") -> int:
    """Runs a program with safe standard streams; returns its exit code. If interrupted it prints ``interrupted``."""
    with safe_streams():
        try:
            return _flushed(run)
        except PocketspecError as error:
            print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
            if isinstance(error, OutputError):
                discard_output()
            return USAGE
        except KeyboardInterrupt:
            if interrupted:
                print(interrupted, file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            discard_output()
            return BROKEN_PIPE


def _flushed(run: Callable[[], int]) -> int:
    """What ``run`` returns, after flushing what it wrote; an error if that cannot be written."""
    try:
        return run()
    finally:
        sys.stdout.flush()


def _is_text(word: str) -> bool:
    return not word.startswith("-") or word == "-" or " " in word or "\n" in word or bool(_NUMBER.match(word))
