"""Numbers as callers give them: of Python, NumPy, torch and their like."""

from __future__ import annotations

import numbers
from typing import Any


def as_whole(value: Any) -> int | None:
    """``value`` as an int if it is a whole number of any library; None if not, and True and False are not."""
    value = python_value(value)
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def as_real(value: Any) -> float | None:
    """``value`` as a float if it is a real number of any library; None if not, and True and False are not."""
    value = python_value(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else None


def python_value(value: Any) -> Any:
    """Scalars and arrays of NumPy, torch and their like as numbers and lists; everything else as it is."""
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value
