"""Torch's exporter without what it does in vain, which is more than half of the time in which a small model is traced.

It makes its table of ONNX functions for every export: it asks onnxscript for some 500, and onnxscript parses the source
of each. And it traces the whole program a second time to decompose operators that the table lacks, of which most
models have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import BuiltinFunctionType
from typing import Any
from unittest import mock

import torch
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.exporter._registration import ONNXRegistry

_aten = torch.ops.aten
# They change no value.
_IDENTITIES = (_aten.detach_.default, _aten.lift_fresh_copy.default)
# They have no result; the exporter removes them.
_CHECKS = (_aten._assert_tensor_metadata.default, _aten._assert_scalar.default)

_make_table, _decompose = ONNXRegistry.from_torchlib, _fx_passes.decompose_with_registry


@contextmanager
def quick_export() -> Iterator[None]:
    """A context in which ``torch.onnx.export`` takes the table that it made first, and decomposes only what it must."""
    with (
        mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(_table)),
        mock.patch.object(_fx_passes, "decompose_with_registry", _in_known_operators),
    ):
        yield


@cache
def _table(opset_version: int) -> Any:
    """The table, which nobody changes."""
    return _make_table(opset_version=opset_version)


def _in_known_operators(program: Any, table: Any) -> Any:
    """``program`` in operators of ``table``: by torch's decompositions if there is one that the table lacks."""
    module = program.graph_module
    if not all(is_known(node, table) for node in module.graph.nodes):
        return _decompose(program, table)
    _fx_passes.remove_assertion_nodes(module)
    for node in list(module.graph.nodes):
        if node.target in _IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target is _aten.to.dtype:
            given, dtype = node.args
            node.target, node.args, node.kwargs = _aten._to_copy.default, (given,), {"dtype": dtype}
    module.graph.eliminate_dead_code()
    module.recompile()
    return program


def is_known(node: Any, table: Any) -> bool:
    """Whether the exporter can take ``node`` as it is, or as what ``_in_known_operators`` makes of it."""
    target = node.target
    if node.op != "call_function" or isinstance(target, BuiltinFunctionType):
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target is _aten.to.dtype:
        return len(node.args) == 2 and not node.kwargs
    if target in _IDENTITIES or target in _CHECKS:
        return True
    return not target._schema.is_mutable and bool(table.get_decomps(target))
