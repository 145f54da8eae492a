"""Counts the work of a chat template against its limit: operations, and characters of texts.

The limit is a second or two of one core of an AMD Zen 4 (measured with the templates of the tests), and more for longer
messages. Texts of public checkpoints' templates take a thousandth of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

_OPERATIONS, _OPERATIONS_PER_CHARACTER = 1_000_000, 20
_TEXT, _TEXT_PER_CHARACTER = 1_000_000, 8
# Characters, or items, that are as much work as one operation.
CHARACTERS, _ITEMS = 16, 4


class LimitError(SecurityError):
    """A template that exceeds its limits. Not one of the errors that filters catch."""


class Meter:
    """The work that one rendering may still do; ``size``: characters of its inputs."""

    def __init__(self, size: int) -> None:
        self._left = self._most = _OPERATIONS + _OPERATIONS_PER_CHARACTER * size
        self.most_text = _TEXT + _TEXT_PER_CHARACTER * size

    def charge(self, operations: int) -> None:
        """Subtracts ``operations``; LimitError if fewer are left."""
        self._left -= operations
        if self._left < 0:
            raise LimitError(f"it takes more than {self._most:,} operations")

    def text(self, length: int) -> None:
        """Charges a text or list of ``length``, existing or about to be made; LimitError if it would be too long.

        A sum or product of lengths can be charged without making anything.
        """
        self.check(length)
        self.charge(length // CHARACTERS)

    def check(self, length: int) -> None:
        """LimitError if a text or list must not have this ``length``."""
        if length > self.most_text:
            raise LimitError(f"it makes a text or list of {length:,}, allowed are {self.most_text:,}")

    def shallow(self, value: Any) -> None:
        """Charges one pass over ``value``: its characters or items, but not the contents of items."""
        if isinstance(value, str | bytes):
            self.text(len(value))
        elif isinstance(value, list | tuple | Mapping | range):
            self.charge(len(value) // _ITEMS)

    def deep(self, value: Any) -> int:
        """Charges one pass over ``value`` and everything in it, as often as it occurs; about its number of characters.

        A list that holds itself twice, nested thirty times, is short and has a billion leaves.
        """
        if isinstance(value, str):
            self.text(len(value))
            return len(value)
        total, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str | bytes):
                total += len(item)
            elif isinstance(item, Mapping):
                waiting += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                waiting += item
            elif isinstance(item, Namespace):
                self.charge(4)
                waiting.append(item._Namespace__attrs)
            self.charge(1)
            self.check(total)
        self.charge(total // CHARACTERS)
        return total

    def counted(self, items: Iterable[Any], deep: bool) -> Iterator[Any]:
        """The same items, each charged when it is taken; with ``deep``, their total length is limited as well."""
        total = 0
        for item in items:
            self.charge(2)
            if deep:
                total += self.deep(item)
                self.check(total)
            yield item


CURRENT: ContextVar[Meter] = ContextVar("template meter")


def size_of(value: Any) -> int:
    """The number of characters of plain data, with at least one for every value: the size of a rendering's inputs."""
    if isinstance(value, str):
        return len(value) + 1
    if isinstance(value, Mapping):
        return 1 + sum(size_of(key) + size_of(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return 1 + sum(map(size_of, value))
    return 1
