"""The operators of routed experts, defined by standard operators.

``Router`` has the inputs x ``[S, hidden]``, weight ``[experts, hidden]``, bias and choice_bias ``[experts]`` (none: 0),
and gives the chosen experts, int64 ``[S, used]``, the best first, and their weights. ``lowering.experts`` has its
formula.

``RoutedExperts`` has the inputs x ``[S, hidden]``, experts and weights ``[S, used]``, and the matrices of all experts:
gate and up stacked by rows, ``[experts * 2 * mlp_size, hidden]``, and down, ``[experts * hidden, mlp_size]``. Each is
codes, scales and zero points (none: the middle code) as ``GatherBlockQuantized`` takes them, or one float matrix. A row
becomes the sum of ``weight * down(activation(gate x) * (up x))`` over its experts, with the biases ``gate_up_bias``
``[experts, 2 * mlp_size]`` and ``down_bias`` ``[experts, hidden]`` where there are any. The definition goes through all
experts and reads the matrices of those that some row has chosen.

The activation "clamped_swiglu" (GPT-OSS) limits both of its inputs: ``g = min(gate, limit)``, and ``g * sigmoid(alpha *
g)`` is multiplied by ``clip(up, -limit, limit) + 1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum

import onnx_ir as ir

DOMAIN = "pocketspec"
ROUTER, EXPERTS = "Router", "RoutedExperts"
CLAMPED = "clamped_swiglu"
_HEADER = f'<domain: "{DOMAIN}", opset_import: ["" : 21, "com.microsoft" : 1]>'


class ExpertInput(IntEnum):
    """Inputs of RoutedExperts; scales, zero points and biases may be missing."""

    X = 0
    EXPERTS = 1
    WEIGHTS = 2
    GATE_UP = 3
    GATE_UP_SCALES = 4
    GATE_UP_ZEROS = 5
    DOWN = 6
    DOWN_SCALES = 7
    DOWN_ZEROS = 8
    GATE_UP_BIAS = 9
    DOWN_BIAS = 10


def _router(node: ir.Node) -> tuple[str, str]:
    """A text and its key."""
    used, sigmoid, normalized = (node.attributes[name].as_int() for name in ("used", "sigmoid", "normalized"))
    epsilon, scale = (node.attributes[name].as_float() for name in ("epsilon", "scale"))
    given = [*node.inputs, None, None]
    bias, choice = given[2] is not None, given[3] is not None
    lines = [
        # A whole tensor: ONNX Runtime 1.23 infers no shape behind a TopK of value_ints.
        f"used = Constant <value = int64[1] {{{used}}}> ()",
        "last = Constant <value_ints = [-1]> ()",
        f"logits = Gemm <transB = 1> (x, weight{', bias' if bias else ''})",
        f"scores = {'Sigmoid (logits)' if sigmoid else 'Softmax <axis = -1> (logits)'}",
        f"liked = {'Add (scores, choice_bias)' if choice else 'Identity (scores)'}",
        "best, experts = TopK <axis = -1> (liked, used)",
        "chosen = GatherElements <axis = 1> (scores, experts)",
    ]
    if normalized:
        lines += [
            "sum = ReduceSum (chosen, last)",
            f"epsilon = Constant <value_float = {epsilon!r}> ()",
            "total = Add (sum, epsilon)",
            "shares = Div (chosen, total)",
        ]
    lines += [
        f"factor = Constant <value_float = {scale!r}> ()",
        f"weights = Mul ({'shares' if normalized else 'chosen'}, factor)",
    ]
    text = f"{_HEADER}\n{ROUTER} (x, weight, bias, choice_bias) => (experts, weights) {{\n    {_joined(lines)}\n}}"
    key = f"{used}{'s' if sigmoid else ''}{'n' if normalized else ''}{'b' if bias else ''}{'c' if choice else ''}"
    return text, f"{key}_{epsilon!r}_{scale!r}"


def _experts(node: ir.Node) -> tuple[str, str]:
    """A text and its key: a Scan over the experts."""
    count, hidden, width = (node.attributes[name].as_int() for name in ("experts", "K", "N"))
    bits, size = (node.attributes[name].as_int() for name in ("bits", "block_size"))
    activation = node.attributes["activation"].as_string()
    given = [*node.inputs, *[None] * len(ExpertInput)]
    zeros, gate_up_bias, down_bias = (
        given[slot] is not None for slot in (ExpertInput.DOWN_ZEROS, ExpertInput.GATE_UP_BIAS, ExpertInput.DOWN_BIAS)
    )
    clamp: tuple[float, ...] = ()
    if activation == CLAMPED:
        clamp = tuple(node.attributes[name].as_float() for name in ("alpha", "limit"))
    text = f"""{_HEADER}
{EXPERTS} ({", ".join(slot.name.lower() for slot in ExpertInput)}) => (y) {{
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    last = Constant <value_ints = [-1]> ()
    first_axis = Constant <value_ints = [0]> ()
    nothing = Constant <value_float = 0.0> ()
    count = Constant <value_int = {count}> ()
    numbers = Range (zero, count, one)
    x_shape = Shape (x)
    start = ConstantOfShape (x_shape)
    y = Scan <num_scan_inputs = 1, body = body (float[rows, hidden] sum, int64 number) => (float[rows, hidden] next) {{
            is_mine = Equal (experts, number)
            mine = Where (is_mine, weights, nothing)
            counted = Cast <to = 6> (is_mine)
            by_row = ReduceSum <keepdims = 0> (counted, last)
            is_row = Cast <to = 9> (by_row)
            row = NonZero (is_row)
            places = Squeeze (row, first_axis)
            all = ReduceSum <keepdims = 0> (by_row)
            is_used = Cast <to = 9> (all)
            next = If (is_used) <
                then_branch = used () => (float[rows, hidden] more) {{
                    share = ReduceSum <keepdims = 1> (mine, last)
                    my_share = Gather <axis = 0> (share, places)
                    mine_x = Gather <axis = 0> (x, places)
                    {_matrix("gate_up", "up_down", 2 * width, hidden, bits, size, zeros)}
                    {_product("mine_x", "up_down", "gate_up_bias" if gate_up_bias else None, "opened")}
                    half = Constant <value_ints = [{width}, {width}]> ()
                    gate, up = Split <axis = -1> (opened, half)
                    {_gated(activation, *clamp)}
                    {_matrix("down", "back", hidden, width, bits, size, zeros)}
                    {_product("inner", "back", "down_bias" if down_bias else None, "closed")}
                    shared = Mul (closed, my_share)
                    at = Unsqueeze (places, last)
                    more = ScatterND <reduction = "add"> (sum, at, shared)
                }},
                else_branch = unused () => (float[rows, hidden] same) {{
                    same = Identity (sum)
                }}>
        }}> (start, numbers)
}}"""
    options = f"{'_z' if zeros else ''}{'_g' if gate_up_bias else ''}{'_d' if down_bias else ''}"
    return text, "_".join([f"{count}x{hidden}x{width}_{bits}_{size}_{activation}", *map(repr, clamp)]) + options


def _product(x: str, matrix: str, biases: str | None, result: str) -> str:
    """``result`` is ``x`` times a matrix of expert ``number``, with that expert's bias if there is one."""
    product = f"com.microsoft.FusedMatMul <transB = 1> ({x}, {matrix})"
    if biases is None:
        return f"{result} = {product}"
    return _joined(
        [
            f"{result}_alone = {product}",
            f"{result}_bias = Gather <axis = 0> ({biases}, number)",
            f"{result} = Add ({result}_alone, {result}_bias)",
        ]
    )


def _gated(activation: str, alpha: float = 1.0, limit: float = 0.0) -> str:
    """``inner`` is what an activation makes of ``gate`` and ``up``."""
    if activation != CLAMPED:
        gate = {
            "silu": "gated = com.microsoft.QuickGelu <alpha = 1.0> (gate)",
            "gelu_tanh": 'gated = Gelu <approximate = "tanh"> (gate)',
        }[activation]
        return _joined([gate, "inner = Mul (gated, up)"])
    return _joined(
        [
            f"highest = Constant <value_float = {limit!r}> ()",
            f"lowest = Constant <value_float = {-limit!r}> ()",
            "unit = Constant <value_float = 1.0> ()",
            "low_gate = Min (gate, highest)",
            f"gated = com.microsoft.QuickGelu <alpha = {alpha!r}> (low_gate)",
            "clipped = Clip (up, lowest, highest)",
            "more_up = Add (clipped, unit)",
            "inner = Mul (gated, more_up)",
        ]
    )


def _matrix(name: str, result: str, rows: int, columns: int, bits: int, size: int, zeros: bool) -> str:
    """``result`` is the matrix ``[rows, columns]`` of expert ``number`` among those stacked in ``name``."""
    lines = [
        f"{name}_rows = Constant <value_int = {rows}> ()",
        f"{name}_first = Mul (number, {name}_rows)",
        f"{name}_end = Add ({name}_first, {name}_rows)",
        f"{name}_ids = Range ({name}_first, {name}_end, one)",
    ]
    if bits > 8:
        stored = f"{name}_stored" if bits == 16 else result
        lines.append(f"{stored} = Gather <axis = 0> ({name}, {name}_ids)")
        lines += [f"{result} = Cast <to = 1> ({stored})"] if bits == 16 else []
        return _joined(lines)
    whole = result if columns % size == 0 else f"{name}_whole"
    inputs = f"{name}, {name}_ids, {name}_scales{f', {name}_zeros' if zeros else ''}"
    attributes = f"bits = {bits}, block_size = {size}, gather_axis = 0, quantize_axis = 1"
    lines.append(f"{whole} = com.microsoft.GatherBlockQuantized <{attributes}> ({inputs})")
    if whole != result:
        # The operator gives whole blocks; the padding of the last one is cut off.
        lines += [
            f"{name}_columns = Constant <value_ints = [{columns}]> ()",
            f"{result} = Slice ({whole}, first_axis, {name}_columns, last)",
        ]
    return _joined(lines)


def _joined(lines: list[str]) -> str:
    return "\n    ".join(lines)


EXPERT_DEFINITIONS: Mapping[str, Callable[[ir.Node], tuple[str, str]]] = {ROUTER: _router, EXPERTS: _experts}
