"""How much a chat template may take, and what is counted: operations, and characters of texts.

What a rendering may take is a second or two of one core of an AMD Zen 4 (measured with the templates of the tests), and
more for longer messages. Texts of public checkpoints' templates take a thousandth of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

_OPERATIONS, _OPERATIONS_PER_CHARACTER = 1_000_000, 20
_TEXT, _TEXT_PER_CHARACTER = 1_000_000, 8
# As much work as one operation.
CHARACTERS, _ITEMS = 16, 4


class LimitError(SecurityError):
    """A template that takes too much. Not one of the errors that filters catch."""


class Meter:
    """What one rendering may still take; ``size``: characters of what it is given."""

    def __init__(self, size: int) -> None:
        self._left = self._most = _OPERATIONS + _OPERATIONS_PER_CHARACTER * size
        self.most_text = _TEXT + _TEXT_PER_CHARACTER * size

    def charge(self, operations: int) -> None:
        """Takes ``operations`` off; LimitError where there are not so many left."""
        self._left -= operations
        if self._left < 0:
            raise LimitError(f"it takes more than {self._most:,} operations")

    def text(self, length: int) -> None:
        """Charges a text or list of ``length`` that is there or will be made; LimitError where it may not be so long.

        Lengths that are sums or products need not be made to be asked for.
        """
        self.check(length)
        self.charge(length // CHARACTERS)

    def check(self, length: int) -> None:
        """LimitError where a text or list may not have ``length``."""
        if length > self.most_text:
            raise LimitError(f"it makes a text or list of {length:,}, allowed are {self.most_text:,}")

    def shallow(self, value: Any) -> None:
        """Charges going through ``value`` once: its characters or items, not what the items hold."""
        if isinstance(value, str | bytes):
            self.text(len(value))
        elif isinstance(value, list | tuple | Mapping | range):
            self.charge(len(value) // _ITEMS)

    def deep(self, value: Any) -> int:
        """Charges going through ``value`` and all it holds, as often as it holds it; the characters of that, about.

        A list that holds itself twice, thirty times over, is short and has a billion ends.
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
        """The same items, each charged when it is taken; with ``deep``, they may not be too long together."""
        total = 0
        for item in items:
            self.charge(2)
            if deep:
                total += self.deep(item)
                self.check(total)
            yield item


CURRENT: ContextVar[Meter] = ContextVar("template meter")


def size_of(value: Any) -> int:
    """Characters of plain data, every value counted as one at least: what a rendering is given."""
    if isinstance(value, str):
        return len(value) + 1
    if isinstance(value, Mapping):
        return 1 + sum(size_of(key) + size_of(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return 1 + sum(map(size_of, value))
    return 1
