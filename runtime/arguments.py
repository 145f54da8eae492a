"""Converts numbers of callers, which may come from NumPy, torch and other libraries."""

from __future__ import annotations

import numbers
from typing import Any


def as_whole(value: Any) -> int | None:
    """``value`` as an int if it is an integer of any library, else None; True and False are not integers."""
    value = python_value(value)
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def as_real(value: Any) -> float | None:
    """``value`` as a float if it is a real number of any library, else None; True and False are not numbers."""
    value = python_value(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else None


def python_value(value: Any) -> Any:
    """Scalars and arrays of NumPy, torch and other libraries as numbers and lists; any other value unchanged."""
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value
