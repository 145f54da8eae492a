"""Runs a function in a process of its own, so that what it measures of the process is its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from export.manifest import PocketspecError

Value = TypeVar("Value")


def run_apart(work: Callable[..., Value], *arguments: Any, notify: Callable[[str], None]) -> Value:
    """What ``work(*arguments, notify)`` gives, run in a new process of Python.

    ``work`` is a function of a module; it and its arguments travel, lines that it is notified of come back. Its
    PocketspecError is raised here, and one that tells the exit code if the process ends otherwise. Whatever ends the
    waiting ends the process as well.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            kind, value = ours.recv()
            if kind == "note":
                notify(value)
            elif kind == "error":
                raise PocketspecError(value)
            else:
                result: Value = value
                return result
    except EOFError:
        process.join()
        raise PocketspecError(
            f"the process that measured ended with code {process.exitcode}: below 0 a signal ended it, and for want of"
            " memory that is -9; close other programs or ask for less"
        ) from None
    finally:
        process.terminate()
        process.join()
        ours.close()


def _serve(answers: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The other process. The one that waits for it decides what becomes of an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        value = work(*arguments, lambda line: answers.send(("note", line)))
    except PocketspecError as error:
        answers.send(("error", str(error)))
    else:
        answers.send(("value", value))


def _end_with_parent() -> None:
    """Nobody measures for a process that was ended itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
