"""``python -m runtime chat``: a conversation, line by line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from export.manifest import PocketspecError
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.engine import TextChunk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.set_defaults(raw=False)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    shared.add_template_arguments(parser)
    shared.add_speculation(parser)
    shared.add_sampling(parser)
    parser.add_argument(
        "--when-full",
        choices=("stop", "drop", "slide"),
        default="stop",
        help="when the conversation outgrows its context: stop (default), drop the oldest turns, or slide a window that"
        " keeps the system message",
    )
    shared.add_explain(parser)
    parser.add_argument("--stats", action="store_true", help="a line of statistics after every answer")


def run(options: argparse.Namespace) -> int:
    """Answers every line of standard input until it ends. Ctrl-C ends an answer, a second one the conversation."""
    from runtime.conversation import Conversation
    from runtime.text.tokenizer import TokenizerError

    sampling, speculation = shared.make_sampling(options), shared.make_speculation(options)
    shared.show_suggestion(options)
    inputs = shared.make_template_inputs(options)
    with shared.open_for(options, speculation) as engine:
        if engine.tokenizer.template is None:
            raise PocketspecError("this model has no chat template and cannot chat; use generate --raw")
        conversation = Conversation(
            engine,
            options.system,
            options.when_full,
            shared.say,
            inputs.arguments,
            inputs.tools,
            inputs.documents,
            sampling=sampling,
            max_new_tokens=options.max_new_tokens,
            stop=options.stop,
            speculation=speculation,
        )
        while (line := _read_line()) is not None:
            try:
                text = read_text(line, sys.stdin.encoding)
                if not text.strip():
                    continue
                answer = conversation.say(text)
            except TokenizerError as error:
                shared.say(f"{error}; this line was not said, and the conversation goes on")
                continue
            _answer(answer, options.stats)
            if options.explain:
                shared.show_explanation(engine)
    return 0


def read_text(line: str, encoding: str | None) -> str:
    """A line whose undecodable bytes are lone surrogates (PEP 383): unchanged, or decoded as UTF-8 if it is that."""
    from runtime.text.tokenizer import TokenizerError

    try:
        return line.encode(encoding or "utf-8", "surrogateescape").decode("utf-8") if not _is_sound(line) else line
    except UnicodeError:
        raise TokenizerError(f"this line is not {encoding} text, nor UTF-8") from None


def _is_sound(line: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in line)


def _read_line() -> str | None:
    """The next line, None at the end of input. The prompt mark goes to standard error, with the notes."""
    print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None


def _answer(answer: Generator[TextChunk, None, None], stats: bool) -> None:
    chunk = None
    with closing(answer), suppress(KeyboardInterrupt):
        for chunk in answer:
            print(chunk.text, end="", flush=True)
    print()
    if stats and chunk is not None:
        print(chunk.stats.line(), file=sys.stderr)
