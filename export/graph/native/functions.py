"""Lets operators that the graph defines be those of our kernels, which are called like their definitions."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.functions import undefine_functions


class NativeFunctions(InPlacePass):
    """Removes the definitions of the operators, so that calls find the native ones."""

    def call(self, model: ir.Model) -> PassResult:
        """Removes the functions of our domain."""
        before = len(model.functions)
        undefine_functions(model)
        return PassResult(model, len(model.functions) != before)
