"""Sizes as people write them: bytes, ``1500MB``, ``1.5GiB``, ``1,5GB``, ``512Mi``, or a share, ``60%``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.manifest import PocketspecError

_POWERS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# Units may lack the B, as Kubernetes writes them.
_UNITS = {"": 1, "B": 1, **_POWERS, **{f"{prefix}B": size for prefix, size in _POWERS.items()}}
# A comma followed by exactly three digits may separate thousands or decimals, so such a text is refused.
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]+|,(?![0-9]{3}(?![0-9]))[0-9]+)?)\s*(%|[A-Za-z]*)")
_FORMS = "a number of bytes, one with a unit (800MB, 1.5GB, 512MiB, 512Mi), or a share of what is available (60%)"


class SizeError(PocketspecError, ValueError):
    """A text that is no size, or no possible budget."""


@dataclass(frozen=True)
class MemoryShare:
    """A share of the available memory, in (0, 1]."""

    fraction: float

    def of(self, available_bytes: int) -> int:
        """The share of ``available_bytes``, in bytes."""
        return int(self.fraction * available_bytes)


def parse_size(text: str) -> int | MemoryShare:
    """The bytes, or the share, in ``text``: ``1500000``, ``800MB``, ``1.5GiB``, ``1,5GB`` or ``60%``.

    M and MB are 10**6, Mi and MiB 2**20. SizeError for a text that is ambiguous, that is no size, or that allows
    nothing.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[2] != "%" and match[2].upper() not in _UNITS):
        raise SizeError(f"{text!r} is no size; write {_FORMS}")
    number = float(match[1].replace(",", "."))
    count = number if match[2] == "%" else int(number * _UNITS[match[2].upper()])
    if count <= 0:
        raise SizeError(f"a budget of {text.strip()} allows nothing; allow more than 0")
    if match[2] != "%":
        return int(count)
    if number > 100:
        raise SizeError(f"{text.strip()} is more than all the memory there is; write at most 100%")
    return MemoryShare(number / 100)


def show_bytes(count: int) -> str:
    """``count`` bytes as text, in MB of 10**6: ``1,234.5 MB``."""
    return f"{count / 1e6:,.1f} MB"
