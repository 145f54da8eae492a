"""The library that parses: llguidance, an extra that is imported at the first constraint."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from runtime.constraints.request import ConstraintError


def load_library() -> Any:
    """The module ``llguidance``; ConstraintError names the extra if it is missing."""
    try:
        return import_module("llguidance")
    except ImportError as error:
        raise ConstraintError(
            f"constraints need the package llguidance ({error}): pip install 'pocketspec[structured]'"
        ) from None
