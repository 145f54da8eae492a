"""``python -m runtime chat``: a conversation at a terminal, or line by line from a pipe."""

from __future__ import annotations

import argparse
import sys

from export.manifest import PocketspecError
from runtime.commands import options as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.set_defaults(raw=False)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    shared.add_template_arguments(parser)
    shared.add_speculation(parser)
    shared.add_sampling(parser)
    shared.add_constraint(parser)
    parser.add_argument(
        "--when-full",
        choices=("stop", "drop", "slide"),
        default="stop",
        help="when the conversation outgrows its context: stop (default), drop the oldest turns, or slide a window that"
        " keeps the system message",
    )
    shared.add_suffix_store(parser)
    shared.add_explain(parser)
    parser.add_argument("--stats", action="store_true", help="a line of statistics after every answer")
    parser.add_argument(
        "--color", action="store_true", help="show drafted tokens in the colour of the level that proposed them"
    )
    parser.add_argument("--no-history", action="store_true", help="keep nothing of what is typed for the next time")


def run(options: argparse.Namespace) -> int:
    """Talks until the input ends. Ctrl-C ends an answer, and the conversation goes on."""
    from runtime.chat.chat import Chat
    from runtime.chat.commands import CommandError, use_colours
    from runtime.chat.history_file import history_path
    from runtime.chat.loop import run as talk
    from runtime.chat.presenter import Presenter
    from runtime.chat.readers import open_reader
    from runtime.conversation import Conversation

    sampling, speculation = shared.make_sampling(options), shared.make_speculation(options)
    constraint = shared.make_constraint(options)
    shared.show_suggestion(options)
    inputs = shared.make_template_inputs(options)
    presenter = Presenter(sys.stdout, sys.stderr)
    reader = open_reader(None if options.no_history else history_path(), presenter.note)
    with shared.open_for(
        options, speculation, presenter.note, application_bytes=reader.memory_bytes, constrained=constraint is not None
    ) as engine:
        if engine.tokenizer.template is None:
            raise PocketspecError("this model has no chat template and cannot chat; use generate --raw")
        conversation = Conversation(
            engine,
            options.system,
            options.when_full,
            presenter.note,
            inputs.arguments,
            inputs.tools,
            inputs.documents,
            sampling=sampling,
            max_new_tokens=options.max_new_tokens,
            stop=options.stop,
            speculation=speculation,
            constraint=constraint,
        )
        chat = Chat(
            engine,
            conversation,
            reader,
            presenter,
            speculation,
            shows_stats=options.stats,
            explains=options.explain,
            constraint=constraint,
        )
        if options.color:
            try:
                use_colours(chat)
            except CommandError as error:
                presenter.note(str(error))
        talk(chat)
    return 0
