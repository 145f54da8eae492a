"""Definitions of our operators by standard ones, as functions of a model (ONNX's ``FunctionProto``).

ONNX Runtime puts a definition in place of each call. Without definitions the calls are of the native operators.
"""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir

from export.graph.expert_functions import EXPERT_DEFINITIONS
from export.graph.state_functions import DOMAIN, STATE_DEFINITIONS

_DEFINITIONS = {**STATE_DEFINITIONS, **EXPERT_DEFINITIONS}


def define_functions(model: ir.Model) -> None:
    """Adds to ``model`` the definitions of those of our operators that it calls."""
    for node in model.graph:
        if node.domain != DOMAIN or node.op_type not in _DEFINITIONS:
            continue
        # Calls that differ in a size or an input have definitions of their own.
        text, node.overload = _DEFINITIONS[node.op_type](node)
        if (DOMAIN, node.op_type, node.overload) not in model.functions:
            function = ir.serde.deserialize_function(onnx.parser.parse_function(text))
            function.overload = node.overload
            model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1


def undefine_functions(model: ir.Model) -> None:
    """Removes the definitions: the calls are then of the native operators."""
    for identifier in [each for each in model.functions if each[0] == DOMAIN]:
        del model.functions[identifier]
    for node in model.graph:
        if node.domain == DOMAIN:
            node.overload = ""
