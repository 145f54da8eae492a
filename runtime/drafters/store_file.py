"""The file of a suffix store: the tokens of earlier texts, readable by their user alone.

It is a line of JSON (kind, version, hash and size of the vocabulary, number of texts, hash of the rest) and the texts:
each a count and its tokens, int32, little endian. It is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from export.manifest import PocketspecError, Vocabulary
from export.own_files import part_of
from export.records import build_record
from export.untrusted import OneOf, UntrustedError, Within, parse_own_json, read_bytes
from runtime.arrays import TokenArray
from runtime.process.file_lock import FileLock

_KIND = "pocketspec suffix store"
_MAGIC = b'{"kind": "pocketspec suffix store"'
_LOCK, _DAMAGED = ".lock", ".damaged"
_MOST_BYTES = 1 << 30
_WORD = 4


class StoreError(PocketspecError, OSError):
    """A suffix store that is in use, of another tokenizer, or cannot be read or written."""


@dataclass(frozen=True)
class _Header:
    """The first line of the file."""

    kind: Annotated[str, OneOf(_KIND)]
    version: Annotated[int, Within(1, 1)]
    vocabulary: str
    entries: Annotated[int, Within(1, 1 << 26)]
    texts: Annotated[int, Within(0, 1 << 28)]
    sha256: str


class StoreFile:
    """The store at ``path`` for texts in ``vocabulary``, of this process until ``close``.

    StoreError if another process has it.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        self.path, self._vocabulary = path, vocabulary
        _refuse_others(path)
        self._lock = _take_lock(path)

    def read(self) -> tuple[list[TokenArray], str | None]:
        """The texts, oldest first; and if the file was damaged, a line that says so: it keeps another name.

        StoreError if it holds tokens of another tokenizer, or cannot be read.
        """
        try:
            data = read_bytes(self.path, _MOST_BYTES)
            if not data:
                return [], None
            header, body = _parse(data)
            texts = _texts(header, body)
        except FileNotFoundError:
            return [], None
        except UntrustedError as error:
            return [], f"the suffix store {self.path} {error}; it is kept as {self._put_aside()}, and a new one begins"
        if (header.vocabulary, header.entries) != (self._vocabulary.sha256, self._vocabulary.entries):
            raise StoreError(
                f"the suffix store {self.path} has tokens of another tokenizer; give another file, or erase it with"
                f" python -m runtime forget {self.path}"
            )
        return texts, None

    def write(self, texts: Sequence[TokenArray]) -> None:
        """Replaces the file by ``texts``; StoreError if it cannot be written, and then it is as it was."""
        body = b"".join(np.array([len(text), *text], "<i4").tobytes() for text in texts)
        header = {
            "kind": _KIND,
            "version": 1,
            "vocabulary": self._vocabulary.sha256,
            "entries": self._vocabulary.entries,
            "texts": len(texts),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        part = part_of(self.path)
        try:
            with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(json.dumps(header).encode() + b"\n" + body)
            os.replace(part, self.path)
        except OSError as error:
            raise StoreError(f"the suffix store {self.path} cannot be written ({error.strerror})") from None
        finally:
            with suppress(OSError):
                part.unlink()

    def close(self) -> None:
        """Lets other processes use the store."""
        self._lock.release()

    def _put_aside(self) -> Path:
        """Gives a damaged file another name, which nothing has."""
        places = (self.path.with_name(f"{self.path.name}{_DAMAGED}{number or ''}") for number in range(1 << 16))
        place = next(place for place in places if not os.path.lexists(place))
        try:
            os.replace(self.path, place)
        except OSError as error:
            raise StoreError(
                f"the suffix store {self.path} is damaged and cannot be moved ({error.strerror})"
            ) from None
        return place


class Erased(NamedTuple):
    """What ``erase`` did: it deleted a number of ``files``, and ``left`` what has the name of a damaged copy and may be
    something else, since it does not begin as stores do.
    """

    files: int
    left: tuple[Path, ...]


def erase(path: Path) -> Erased:
    """Deletes the store at ``path``, its damaged copies and its lock.

    StoreError if a process uses it, or if the file is no suffix store.
    """
    _refuse_others(path)
    copies = [path, *sorted(path.parent.glob(f"{_escaped(path.name)}{_DAMAGED}*"))]
    found = [copy for copy in copies if os.path.lexists(copy)]
    if path in found and not _is_store(path):
        raise StoreError(f"{path} is no suffix store; nothing was deleted")
    lock = _take_lock(path)
    try:
        for copy in (copy for copy in found if _is_store(copy)):
            copy.unlink()
        with suppress(OSError):
            _lock_of(path).unlink()
    except OSError as error:
        raise StoreError(f"{path} cannot be deleted ({error.strerror})") from None
    finally:
        lock.release()
    left = tuple(copy for copy in found if os.path.lexists(copy))
    return Erased(len(found) - len(left), left)


def _is_store(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError:
        return False
    return start in (b"", _MAGIC)


def _refuse_others(path: Path) -> None:
    """StoreError for a place where no store can be."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise StoreError(f"the suffix store {path} is a link or no file; give the place of a file")
    if not path.parent.is_dir():
        raise StoreError(f"the suffix store {path}: there is no folder {path.parent}; make it first")


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + _LOCK)


def _take_lock(path: Path) -> FileLock:
    try:
        return FileLock(_lock_of(path))
    except BlockingIOError:
        raise StoreError(
            f"the suffix store {path} is in use by another process; end it, or give another file"
        ) from None
    except OSError as error:
        raise StoreError(f"the suffix store {path} cannot be locked ({error.strerror}); give another place") from None


def _parse(data: bytes) -> tuple[_Header, bytes]:
    line, _, body = data.partition(b"\n")
    header: _Header = build_record(_Header, parse_own_json(line[: 1 << 12]), "it")
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise UntrustedError("is damaged: its content is not what was written")
    return header, body


def _texts(header: _Header, body: bytes) -> list[TokenArray]:
    words: Any = np.frombuffer(body, "<i4") if len(body) % _WORD == 0 else np.empty(0, np.int32)
    texts: list[TokenArray] = []
    place = 0
    while place < len(words):
        count = int(words[place])
        text = words[place + 1 : place + 1 + max(count, 0)]
        if len(text) != count or (count and not 0 <= int(text.min()) <= int(text.max()) < 1 << 26):
            break
        texts.append(text.astype(np.int32))
        place += 1 + count
    if len(texts) != header.texts or place * _WORD != len(body):
        raise UntrustedError("is damaged: its texts do not add up")
    return texts


def _escaped(name: str) -> str:
    """``name`` for a pattern of files, in which nothing of it is special."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
