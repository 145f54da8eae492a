"""Reads the text files that drafters are made for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from export.manifest import PocketspecError

_LINES = 4096  # that are read at a time


class TextError(PocketspecError, ValueError):
    """A text that cannot be read, or has nothing in it."""


def text_parts(path: Path, option: str) -> Iterator[str]:
    """A UTF-8 text in runs of whole lines; TextError, which names the ``option`` that gave it, if it is none."""
    try:
        with path.open(encoding="utf-8") as lines:
            while part := "".join(islice(lines, _LINES)):
                yield part
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8, {error.reason}"
        raise TextError(f"cannot read {option} {path}: {reason}; give a UTF-8 text file") from None
