"""Reads what strangers wrote in bundles, records and checkpoints: names, texts, numbers and JSON.

Names stay inside their folder. JSON is bounded in size and depth before it is parsed. Files are regular files of a
bounded size. ``UntrustedError`` says what is wrong in a few words; the caller adds where. Every package reads with this
module, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# Most bytes of a JSON file: manifests have tens of kilobytes, packing tables of large models a few hundred.
MOST_JSON = 32 << 20
MOST_TEXT = 4 << 20  # of chat templates, and of the files in which they may stand
_MOST_DEPTH = 64
_MOST_PART, _MOST_NAME = 200, 500  # bytes; Windows takes 260 characters for a whole path, others 255 bytes for a part
# Texts and brackets. Nothing is tried twice: a long text would take a hundred times its size, one without an end hours.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]')
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)
# Characters that control a terminal or change the direction of a line.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class UntrustedError(ValueError):
    """What is wrong with something that a stranger wrote, in a few words."""


def name_fault(name: str) -> str | None:
    """Why ``name`` is no plain relative path of a file on every system; None if it is one.

    Parts are separated by slashes. Refused are absolute paths, ``..``, drives, backslashes, control characters, what
    Windows reserves, and long names.
    """
    if len(name.encode("utf-8", "surrogatepass")) > _MOST_NAME:
        return f"has more than {_MOST_NAME} bytes"
    if _FORBIDDEN.search(name):
        return "has a character that names of files cannot have everywhere"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "is no plain path within its folder"
        if len(part.encode()) > _MOST_PART:
            return f"has a part of more than {_MOST_PART} bytes"
        if part[-1] in ". " or part[0] == " " or _DEVICES.fullmatch(part):
            return "is no name that files can have everywhere"
    return None


def text_fault(text: str) -> str | None:
    """Why ``text`` cannot be printed as it is; None if it can."""
    if len(text) > 10_000:
        return "has more than 10,000 characters"
    return "has a character that steers terminals" if _STEERING.search(text) else None


def shown(value: Any) -> str:
    """``value`` for an error message: one short line without control characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 128:
        return f"a number of {value.bit_length():,} bits"
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def first_line(error: BaseException) -> str:
    """The first cause of an error that another library raised, with its kind, in one line without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"


@dataclass(frozen=True)
class Within:
    """Inclusive bounds of a number in a record, as an annotation: ``Annotated[int, Within(1, 10)]``."""

    low: float
    high: float

    def fault(self, value: float) -> str | None:
        """Why ``value`` is out of bounds; None if it is not."""
        if self.low <= value <= self.high:  # false for NaN
            return None
        return f"is not within {self.low:,} and {self.high:,}"


class OneOf:
    """The words that a text may be, as an annotation."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def fault(self, value: str) -> str | None:
        """Why ``value`` is none of the words; None if it is one."""
        return None if value in self._words else f"is none of {', '.join(self._words)}"


class FileName:
    """A name without a ``name_fault``, as an annotation, with this ``ending``; ``plain``: without slashes."""

    def __init__(self, *, plain: bool = False, ending: str = "") -> None:
        self._plain, self._ending = plain, ending

    def fault(self, value: str) -> str | None:
        """Why ``value`` is no such name; None if it is one."""
        if self._plain and "/" in value:
            return "is in another folder"
        return name_fault(value) if value.endswith(self._ending) else f"does not end in {self._ending}"


def parse_json(text: str | bytes) -> Any:
    """The data in JSON ``text``, whoever wrote it; UntrustedError if it is malformed, or nested too deep."""
    return _parse(text)


def parse_own_json(text: str | bytes) -> Any:
    """As ``parse_json``, for a file that this program writes: no key twice, no NaN, no infinity."""
    return _parse(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def _parse(text: str | bytes, **hooks: Any) -> Any:
    try:
        decoded = text if isinstance(text, str) else text.decode()
        _check_depth(decoded)
        return json.loads(decoded, **hooks)
    except UntrustedError:
        raise
    except UnicodeDecodeError as error:
        raise UntrustedError(f"is not UTF-8 ({error.reason} at byte {error.start:,})") from None
    except (ValueError, RecursionError) as error:  # also numbers of more digits than Python takes
        raise UntrustedError(f"is not JSON ({' '.join(str(error).split())})") from None


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKENS.finditer(text):
        kind = text[token.start()]
        depth += (kind in "[{") - (kind in "]}")
        if depth > _MOST_DEPTH:
            raise UntrustedError(f"is nested more than {_MOST_DEPTH} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise UntrustedError(f"has the key {shown(twice)} twice")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise UntrustedError(f"has {name} for a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UntrustedError(f"has {shown(text)} for a number")
    return value


def read_bytes(path: Path, limit: int) -> bytes:
    """All bytes of the regular file at ``path``; FileNotFoundError if there is none.

    UntrustedError if it is no regular file, has more than ``limit`` bytes, or cannot be read.
    """
    try:
        status = os.stat(path)  # before it is opened: opening a pipe would wait
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError("is a folder" if stat.S_ISDIR(status.st_mode) else "is no regular file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UntrustedError(f"cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise UntrustedError(f"has more than {limit:,} bytes")
    return data


def read_text(path: Path, limit: int) -> str:
    """As ``read_bytes``, as UTF-8 text."""
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError as error:
        raise UntrustedError(f"is not UTF-8 ({error.reason} at byte {error.start:,})") from None


def read_text_within(folder: Path, name: str, limit: int) -> str:
    """As ``read_text``, of the file ``name`` of ``folder``; UntrustedError if a link to it leaves the folder."""
    if any(leaving_links(folder, [name])):
        raise UntrustedError("is a link that leaves its folder; put the file itself there")
    return read_text(folder / name, limit)


def leaving_links(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Those of ``names`` in ``folder`` that lead out of it by symbolic links.

    A snapshot in the Hugging Face Hub's cache consists of links to ``../../blobs``; those files belong to it.
    """
    root = os.path.realpath(folder)
    repository, snapshots = os.path.split(os.path.dirname(root))
    roots = [root, os.path.join(repository, "blobs")] if snapshots == "snapshots" else [root]
    for name in names:
        real = os.path.realpath(os.path.join(root, name))
        if not any(real == place or real.startswith(place.rstrip(os.sep) + os.sep) for place in roots):
            yield name
