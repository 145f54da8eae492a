"""Decides who may use an engine's models: one answer at a time, read by any thread.

Every model has one KV cache, which two answers cannot share. While a thread has an answer, other threads are refused
(BusyError). They do not wait, because an answer that nobody reads to its end would make them wait forever.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from export.manifest import PocketspecError
from runtime.process.forks import outlive_forks

_T = TypeVar("_T")


class BusyError(PocketspecError, RuntimeError):
    """The engine is in use by another thread; it gives one answer at a time."""


class ClosedError(PocketspecError, RuntimeError):
    """The engine is closed, or was opened by another process."""


class CancelledError(PocketspecError, RuntimeError):
    """Ends the step of a cancelled answer. Readers never see it: for them the answer ends."""


class Answer(Generator[_T, None, None]):
    """An answer as a generator of pieces; one thread at a time may read it, and any thread may close it.

    ``close`` cancels it and returns when the current step has ended. The last piece says why the answer ended
    (``Step.finish``); a cancelled answer has no such piece.
    """

    def __init__(self, pieces: Generator[_T, None, None], turns: Turns) -> None:
        self._pieces, self._turns = pieces, turns
        # The thread that began it; None once another thread has read from it.
        self.owner: threading.Thread | None = threading.current_thread()
        self.is_running = self.is_cancelled = self.is_over = False
        self.ended_by: threading.Thread | None = None
        outlive_forks(self)

    def through(self, wrap: Callable[[Generator[_T, None, None]], Generator[_T, None, None]]) -> Answer[_T]:
        """Passes the pieces through ``wrap`` and returns this answer. Must be called before the first piece is read."""
        self._pieces = wrap(self._pieces)
        return self

    def send(self, value: None) -> _T:
        """The next piece. BusyError while another thread uses the engine, or if another answer replaced this one."""
        return self._turns.run(self, lambda: next(self._pieces))

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> _T:
        """See ``Generator``."""
        error = value if isinstance(value, BaseException) else kind
        return self._turns.run(self, lambda: self._pieces.throw(error))

    def close(self) -> None:
        """Cancels the answer. Called from within its own step, it ends with that step."""
        self._turns.end(self)

    def cancel(self) -> None:
        """Cancels the answer without waiting: it ends at its next forward. It still wants to be closed."""
        self.is_cancelled = True

    def __del__(self) -> None:
        self._turns.end(self)

    def finish(self) -> None:
        """Closes the generator of the pieces; only ``Turns`` calls it."""
        self.is_over = True
        self._pieces.close()


class Turns:
    """The user of an engine's models: nobody, an answer that is not over, or a block inside ``alone``.

    One lock guards every decision. It is held for microseconds, never while models run.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        # The thread that uses the models now, and how deep its uses are nested.
        self._user: int | None = None
        self._depth = 0
        self._latest: Callable[[], Answer[Any] | None] = lambda: None
        self._is_closed = False

    def check(self) -> None:
        """ClosedError if the engine can no longer be used."""
        if os.getpid() != self._process:
            raise ClosedError(
                "this engine was opened before the process was forked, and its threads stayed behind: open the bundle"
                " in the process that uses it"
            )
        if self._is_closed:
            raise ClosedError("this engine is closed; open the bundle again")

    def check_cancelled(self) -> None:
        """CancelledError if the running answer was cancelled or the engine closed. Called before every forward."""
        if os.getpid() != self._process:
            self.check()
        answer = self._current()
        if self._is_closed or (answer is not None and answer.is_cancelled):
            raise CancelledError("the answer was cancelled")

    def begin(self, make: Callable[[], Generator[_T, None, None]]) -> Answer[_T]:
        """Begins an answer with the pieces of ``make``. Ends this thread's; BusyError while another has one."""
        with self.alone():
            answer = Answer(make(), self)
            self._latest = weakref.ref(answer)
            return answer

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context for using the models without an answer. Ends this thread's; BusyError while another has one."""
        self.check()
        with self._changed:
            self.check()
            answer = self._current()
            if not self._is_free() or (answer is not None and not _may_end(answer)):
                raise _busy()
            self._enter()
        try:
            if answer is not None:
                answer.ended_by = answer.owner
                answer.finish()
            yield
        except CancelledError:
            raise ClosedError("this engine was closed") from None
        finally:
            self._leave()

    def run(self, answer: Answer[_T], advance: Callable[[], _T]) -> _T:
        """Runs ``advance``, which uses the models for ``answer``, and returns its result; an error ends the answer."""
        if os.getpid() != self._process:
            self.check()
        with self._changed:
            if answer.is_over or answer.is_cancelled or self._is_closed:
                raise _why_over(answer)
            if answer.is_running or not self._is_free():
                raise _busy()
            if answer.owner is not threading.current_thread():
                answer.owner = None
            answer.is_running = True
            self._enter()
        try:
            return advance()
        except CancelledError:
            answer.is_over = True
            raise StopIteration from None
        except BaseException:
            answer.is_over = True
            raise
        finally:
            answer.is_running = False
            if answer.is_cancelled and not answer.is_over:
                answer.finish()
            self._leave()

    def end(self, answer: Answer[Any]) -> None:
        """Cancels ``answer`` and waits until its step has ended; called from within that step, it does not wait."""
        if answer.is_over or os.getpid() != self._process:
            return
        answer.is_cancelled = True
        with self._changed:
            if answer.is_running and self._user == threading.get_ident():
                return
            self._changed.wait_for(self._is_free)
            self._enter()
        try:
            if not answer.is_over:
                answer.finish()
        finally:
            self._leave()

    def close(self, release: Callable[[], None]) -> None:
        """Cancels the running answer, waits until it has ended, and calls ``release``, which later calls wait for.

        BusyError if called from within a step. Does nothing in a forked process, which has none of the threads.
        """
        if os.getpid() != self._process:
            return
        with self._changed:
            if self._user == threading.get_ident():
                raise BusyError("an engine cannot be closed from inside a step of its answer; close it behind the step")
            was_closed, self._is_closed = self._is_closed, True
            self._changed.wait_for(self._is_free)
            self._enter()
        try:
            answer = self._current()
            if answer is not None:
                answer.finish()
            if not was_closed:
                release()
        finally:
            self._leave()

    def _is_free(self) -> bool:
        """Whether this thread may use the models now."""
        return self._user in (None, threading.get_ident())

    def _enter(self) -> None:
        self._user, self._depth = threading.get_ident(), self._depth + 1

    def _leave(self) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._user = None
                self._changed.notify_all()

    def _current(self) -> Answer[Any] | None:
        """The latest answer, if it is not over."""
        answer = self._latest()
        return None if answer is None or answer.is_over else answer


def _may_end(answer: Answer[Any]) -> bool:
    """Whether this thread may replace ``answer``: it began the answer, and no other thread has read from it."""
    return not answer.is_running and answer.owner is threading.current_thread()


def _busy() -> BusyError:
    return BusyError(
        "this engine gives an answer in another thread, and one engine gives one answer at a time: wait until that"
        " answer is over (a lock around generate does that), close it, or open another engine"
    )


def _why_over(answer: Answer[Any]) -> BaseException:
    """What reading an answer that is over raises: BusyError if another thread's new answer ended it, else its end."""
    if answer.ended_by in (None, threading.current_thread()):
        return StopIteration()
    return BusyError("another answer of this engine began in the thread that this one comes from, which ended this one")
