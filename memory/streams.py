"""Standard streams that are closed, lead to a full disk, lost their reader, or cannot encode every character."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TextIO, cast

from export.manifest import PocketspecError


class OutputError(PocketspecError, OSError):
    """Standard output cannot be written, usually because the disk is full."""


@contextmanager
def safe_streams() -> Iterator[None]:
    """A context in which all standard streams exist, and only standard output can fail.

    Writing to it raises OutputError with the reason, or BrokenPipeError if its reader went away. What standard error
    cannot take is lost. Characters that an encoding lacks become question marks. Input that is not text is kept as lone
    surrogates (PEP 383). At the end everything is flushed.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    opened = _open_missing()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    sys.stdout, sys.stderr = cast(TextIO, _Output(sys.stdout)), cast(TextIO, _Notes(sys.stderr))
    try:
        yield
    finally:
        output = sys.stdout
        try:
            output.flush()
        finally:
            sys.stderr.flush()
            sys.stdin, sys.stdout, sys.stderr = before
            for stream in opened:
                stream.close()


def discard_output() -> None:
    """Drops what is still buffered for standard output, so that it does not fail once more at the end."""
    if isinstance(sys.stdout, _Output):
        sys.stdout.discard()


def shows_everything(stream: TextIO) -> bool:
    """Whether the encoding of ``stream`` can encode every character."""
    return (stream.encoding or "utf-8").lower().startswith("utf")


class _Stream:
    """The stream ``inner``, with question marks for characters that its encoding lacks."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, text: str) -> int:
        try:
            return self._inner.write(text)
        except UnicodeEncodeError:
            encoding = self._inner.encoding or "ascii"
            return self._inner.write(text.encode(encoding, "replace").decode(encoding))

    def flush(self) -> None:
        self._inner.flush()


class _Output(_Stream):
    """A stream that keeps failing once it failed: argparse ignores the first error."""

    _failure: OSError | None = None

    def write(self, text: str) -> int:
        with self._explained():
            return super().write(text)

    def flush(self) -> None:
        with self._explained():
            super().flush()

    def discard(self) -> None:
        self._failure = None
        _discard(self._inner)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except BrokenPipeError as error:
            self._failure = error
            raise
        except OSError as error:
            self._failure = OutputError(f"cannot write to standard output: {error.strerror}")
            raise self._failure from None


class _Notes(_Stream):
    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        _discard(self._inner)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            return super().flush()
        _discard(self._inner)


def _open_missing() -> list[IO[str]]:
    """Opens the null device in place of closed streams, so that no other file gets their descriptors."""
    opened: list[IO[str]] = []
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened.append(open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (it is closed with the context)
            setattr(sys, name, opened[-1])
    return opened


def _discard(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # a stream may have no file
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
