"""Runs a function in a process of its own, so that measurements of the process concern this function alone."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, TypeVar

from export.manifest import PocketspecError
from memory.child import command, environment

Value = TypeVar("Value")


def run_isolated(work: Callable[..., Value], *arguments: Any, notify: Callable[[str], None]) -> Value:
    """The result of ``work(*arguments, notify)``, run in a new Python process.

    ``work`` must be a function of a module; it and its arguments are pickled, and lines for ``notify`` come back. Its
    PocketspecError is raised here; so is one with the exit code if the process ends in another way. If the waiting
    ends, by whatever, the process ends as well.
    """
    words = command("runtime.process.isolated")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        try:
            value: Value = _serve(process, (work, arguments), notify)
            return value
        except (EOFError, BrokenPipeError):
            process.wait()
            raise PocketspecError(
                f"the process that measured ended with code {process.returncode}: below 0 a signal ended it, and for"
                " want of memory that is -9; close other programs or ask for less"
            ) from None
        finally:
            process.terminate()
            with suppress(OSError):  # the process may have stopped reading
                assert process.stdin is not None
                process.stdin.close()


def _serve(process: subprocess.Popen[bytes], task: tuple[Any, ...], notify: Callable[[str], None]) -> Any:
    """Sends the task, passes on notes, and returns the result."""
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(task, process.stdin)
    process.stdin.flush()
    while True:
        kind, value = pickle.load(process.stdout)
        if kind == "value":
            return value
        if kind == "error":
            raise PocketspecError(value)
        notify(value)


def _work(tasks: IO[bytes], answers: IO[bytes]) -> None:
    """The other process. It ignores interrupts, because the waiting process decides what they mean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work, arguments = pickle.load(tasks)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        value = work(*arguments, lambda line: _send(answers, "note", line))
    except PocketspecError as error:
        _send(answers, "error", str(error))
    else:
        _send(answers, "value", value)


def _send(answers: IO[bytes], kind: str, value: Any) -> None:
    pickle.dump((kind, value), answers)
    answers.flush()


def _end_with_parent() -> None:
    """Ends this process when standard input ends, that is, when the waiting process has ended."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    # What the work prints must not mix with the results.
    with open(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        _work(sys.stdin.buffer, answers)
