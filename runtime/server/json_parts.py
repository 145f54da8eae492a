"""JSON in parts, so that a long reply is never in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

# Parts have about so many bytes.
_PART_BYTES = 8192


class LazyList:
    """A list of JSON values that are made one by one, as they are sent."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = values


def dumps(value: Any) -> str:
    """``value`` as JSON, without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_parts(value: Any) -> Iterator[bytes]:
    """``value``, which may have ``LazyList``, as JSON."""
    part = bytearray()
    for text in _texts(value):
        part += text.encode()
        if len(part) >= _PART_BYTES:
            yield bytes(part)
            part.clear()
    yield bytes(part)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case dict():
            items = ((f"{dumps(key)}:", _texts(item)) for key, item in value.items())
            yield from _joined("{", items, "}")
        case list():
            yield from _joined("[", (("", _texts(item)) for item in value), "]")
        case LazyList():
            yield from _joined("[", ((dumps(item), ()) for item in value.values), "]")
        case _:
            yield dumps(value)


def _joined(opening: str, items: Iterable[tuple[str, Iterable[str]]], closing: str) -> Iterator[str]:
    yield opening
    for number, (beginning, rest) in enumerate(items):
        yield f"{',' if number else ''}{beginning}"
        yield from rest
    yield closing
