"""Sizes as people write them: bytes, ``1500MB``, ``1.5GiB``, or a share of what is available, ``60%``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.manifest import PocketspecError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[A-Za-z]*)")


class SizeError(PocketspecError, ValueError):
    """A text that is no size, or a size that no budget can have."""


@dataclass(frozen=True)
class Share:
    """A part of the memory that is available, in (0, 1]."""

    fraction: float

    def of(self, available_bytes: int) -> int:
        """The share of ``available_bytes``, in bytes."""
        return int(self.fraction * available_bytes)


def parse_size(text: str) -> int | Share:
    """Bytes, or a share, from ``1500000``, ``800MB``, ``1.5GiB`` or ``60%``. MB is 10**6, MiB 2**20; more than zero."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[2] != "%" and match[2].upper() not in _UNITS):
        raise SizeError(f"{text!r} is no size; write bytes, a number with MB, GB, MiB or GiB, or a share such as 60%")
    number = float(match[1])
    if number <= 0:
        raise SizeError(f"a budget of {text.strip()} allows nothing; allow more than 0")
    if match[2] != "%":
        return int(number * _UNITS[match[2].upper()])
    if number > 100:
        raise SizeError(f"{text.strip()} is more than all the memory there is; write at most 100%")
    return Share(number / 100)


def show_bytes(count: int) -> str:
    """``count`` bytes for people, in MB of 10**6: ``1,234.5 MB``."""
    return f"{count / 1e6:,.1f} MB"
