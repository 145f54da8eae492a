"""The options ``--session`` and ``--reread``: what one command has read, the next one need not read again."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import PocketspecError
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.engine import Engine


def add_session(parser: argparse.ArgumentParser) -> None:
    """Declares both options."""
    parser.add_argument(
        "--session",
        type=Path,
        metavar="FILE",
        help="keep what the model has read and said in FILE, with its KV cache: what this prompt and the one before"
        " have in common at their beginning is not read again",
    )
    parser.add_argument(
        "--reread",
        action="store_true",
        help="where FILE cannot be used (another model, KV type or kernels, or a smaller plan), read everything again"
        " and replace it",
    )


def check_session(options: argparse.Namespace) -> None:
    """PocketspecError for options that mean nothing, or a file that could not be saved; before anything is opened."""
    path: Path | None = options.session
    if options.reread and path is None:
        raise PocketspecError("--reread is for --session FILE; pass that, too, or drop it")
    if path is not None and not path.parent.is_dir():
        raise PocketspecError(f"--session {path}: there is no folder {path.parent}; make it first")


@contextmanager
def kept_session(engine: Engine, options: argparse.Namespace) -> Iterator[None]:
    """A context that begins with the session restored, if there is one, and ends with it saved.

    After an error nothing is saved. A conversation in the file stays in it.
    """
    path: Path | None = options.session
    if path is None:
        yield
        return
    conversation = None
    if os.path.lexists(path):
        session = engine.restore(path, reread=options.reread)
        conversation = session.conversation
        if session.reread is not None:
            shared.say(f"{path} is read again and replaced: {session.reread}")
    yield
    engine.save(path, conversation)
