"""Torch's table of ONNX functions for its operators, made once in a process instead of once for every export.

That takes 0.8 s of the 3 s in which a small model is traced: torch asks onnxscript for some 500 functions each time,
and onnxscript parses the source of each. Nobody changes the table afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from torch.onnx._internal.exporter._registration import ONNXRegistry

_make = ONNXRegistry.from_torchlib


@cache
def _made(opset_version: int) -> Any:
    return _make(opset_version=opset_version)


@contextmanager
def table_kept() -> Iterator[None]:
    """A context in which exports take the table that the first of them made."""
    with mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(_made)):
        yield
