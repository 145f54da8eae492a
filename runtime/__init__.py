"""Runs exported bundles: plans memory first, then decodes speculatively, with exactly the target's output.

Applications import the names below from here, and nothing else; the rooms inside are this package's own business. Each
room's ``__init__`` says what it is for and what may be imported from it; ``tests/test_layers.py`` has their order.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.constraints.request import AnyJsonObject, ConstraintError, Grammar, JsonSchema, Regex
    from runtime.decoding.logprobs import TokenLogprob
    from runtime.decoding.sampling import SamplingParams
    from runtime.decoding.stats import GenerationStats
    from runtime.engine import Engine, TextChunk
    from runtime.turns import BusyError, ClosedError

# ONNX Runtime sends telemetry unless this is set before it is imported; a user's own value is kept.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Engine": "runtime.engine",
    "TextChunk": "runtime.engine",
    "SamplingParams": "runtime.decoding.sampling",
    "GenerationStats": "runtime.decoding.stats",
    "TokenLogprob": "runtime.decoding.logprobs",
    "JsonSchema": "runtime.constraints.request",
    "AnyJsonObject": "runtime.constraints.request",
    "Regex": "runtime.constraints.request",
    "Grammar": "runtime.constraints.request",
    "ConstraintError": "runtime.constraints.request",
    "BusyError": "runtime.turns",
    "ClosedError": "runtime.turns",
}

__all__ = [
    "AnyJsonObject",
    "BusyError",
    "ClosedError",
    "ConstraintError",
    "Engine",
    "GenerationStats",
    "Grammar",
    "JsonSchema",
    "Regex",
    "SamplingParams",
    "TextChunk",
    "TokenLogprob",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: a wrong option is refused without loading ONNX Runtime."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'runtime' has no attribute {name!r}")
