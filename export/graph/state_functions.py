"""The operators of layers with states, defined by standard operators, for graphs that ONNX Runtime alone runs.

Every past state is read before its present one is written, since both are bound to one buffer. Rows are worked on one
by one, so that a row's result does not depend on the number of rows that run with it.

``ShortConvolution`` has the inputs x ``[1, S, channels]``, weight ``[width, channels]``, bias ``[channels]`` or none,
past ``[1, slots, channels]`` and total, the length with the S rows, int64 ``[1]``. The row of position p lies in slot p
modulo the number of slots.

``LinearRecurrence`` has queries, keys, values, log decays and rates (none: not the delta rule) of S rows, the base
``[1, heads, key_size, value_size]``, past updates ``[1, held, update_size]``, and replay. An update is a row's decays,
keys and what it adds to them, side by side. With T = replay[0] + S rows, the base moves on by the first replay[1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from export.graph.ir_helpers import dims_of, input_of

DOMAIN = "pocketspec"
CONVOLUTION, RECURRENCE = "ShortConvolution", "LinearRecurrence"
_OPSET = 21


def _convolution(node: ir.Node) -> tuple[str, str]:
    """A text and its key. Slot s holds the newest of the positions p up to the last one with p = s modulo slots."""
    width, silu = node.attributes["width"].as_int(), bool(node.attributes["silu"].as_int())
    bias = node.inputs[2] is not None
    taps = "\n".join(
        f"""    start{i} = Constant <value_ints = [{i}]> ()
    end{i} = Add (start{i}, rows)
    column{i} = Constant <value_int = {i}> ()
    weight{i} = Gather <axis = 0> (weight, column{i})
    slice{i} = Slice (window, start{i}, end{i}, one)
    tap{i} = Mul (slice{i}, weight{i})
    {f"sum{i} = Add (sum{i - 1}, tap{i})" if i else "sum0 = Identity (tap0)"}"""
        for i in range(width)
    )
    last = f"biased = Add (sum{width - 1}, bias)" if bias else f"biased = Identity (sum{width - 1})"
    finish = "gate = Sigmoid (biased)\n    y = Mul (biased, gate)" if silu else "y = Identity (biased)"
    text = f"""<domain: "{DOMAIN}", opset_import: ["" : {_OPSET}]>
{CONVOLUTION} (x, weight, bias, past, total) => (y, present) {{
    zero = Constant <value_int = 0> ()
    unit = Constant <value_int = 1> ()
    one = Constant <value_ints = [1]> ()
    before = Constant <value_int = {width - 1}> ()
    rows = Shape <start = 1, end = 2> (x)
    slots = Shape <start = 1, end = 2> (past)
    length = Sub (total, rows)
    known = Concat <axis = 1> (past, x)
    back = Sub (before, unit)
    limit = Constant <value_int = -1> ()
    step = Constant <value_int = -1> ()
    ago = Range (back, limit, step)
    one_ago = Add (ago, unit)
    position = Sub (length, one_ago)
    slot = Mod (position, slots)
    count = Squeeze (rows)
    new = Range (zero, count, unit)
    fresh = Add (new, slots)
    wanted = Concat <axis = 0> (slot, fresh)
    window = Gather <axis = 1> (known, wanted)
{taps}
    {last}
    {finish}
    all_slots = Squeeze (slots)
    places = Range (zero, all_slots, unit)
    end = Sub (total, one)
    apart = Sub (end, places)
    age = Mod (apart, slots)
    newest = Sub (end, age)
    offset = Sub (newest, length)
    is_new = GreaterOrEqual (newest, length)
    moved = Add (offset, slots)
    source = Where (is_new, moved, places)
    present = Gather <axis = 1> (known, source)
}}"""
    return text, f"{width}{'b' if bias else ''}{'s' if silu else ''}"


def _recurrence(node: ir.Node) -> tuple[str, str]:
    """A text and its key: one Scan over the repeated rows and the new ones."""
    heads, key_size, value_size = (int(dim) for dim in dims_of(input_of(node, 5))[1:])
    delta = node.inputs[4] is not None
    numbers: Mapping[str, Any] = {name: node.attributes[name] for name in ("key_heads", "scale", "epsilon")}
    key_heads, scale = numbers["key_heads"].as_int(), numbers["scale"].as_float()
    epsilon = numbers["epsilon"].as_float()
    shared = heads // key_heads
    texts = {
        "key": _normed("key", "keys", epsilon, None),
        "query": _normed("query", "queries", epsilon, scale),
        "spread": f"""wide = Constant <value_ints = [{key_heads}, {shared}, {key_size}]> ()
            tall = Constant <value_ints = [{heads}, {key_size}, 1]> ()
            flat = Constant <value_ints = [{heads}, 1, {key_size}]> ()
            k3 = Unsqueeze (k, axis1)
            ks = Expand (k3, wide)
            kc = Reshape (ks, tall)
            q3 = Unsqueeze (q, axis1)
            qs = Expand (q3, wide)
            qr = Reshape (qs, flat)""",
        "rule": """kr = Reshape (ks, flat)
            mem = MatMul (kr, faded)
            mem2 = Squeeze (mem, axis1)
            lacking = Sub (v, mem2)
            rate = Unsqueeze (beta, axis1)
            fresh = Mul (lacking, rate)"""
        if delta
        else "fresh = Identity (v)",
    }
    beta = "rates = Squeeze (beta, axis0)" if delta else "rates = Identity (decays)"
    text = f"""<domain: "{DOMAIN}", opset_import: ["" : {_OPSET}]>
{RECURRENCE} (query, key, value, log_decay, beta, base, updates, replay) => (y, present_base, present_updates) {{
    axis0 = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    rows = Shape <start = 1, end = 2> (key)
    repeated = Slice (replay, axis0, one)
    folded = Slice (replay, one, two)
    count = Add (repeated, rows)
    key_shape = Constant <value_ints = [-1, {key_heads}, {key_size}]> ()
    value_shape = Constant <value_ints = [-1, {heads}, {value_size}]> ()
{texts["key"]}
{texts["query"]}
    values = Reshape (value, value_shape)
    exp = Exp (log_decay)
    decays = Squeeze (exp, axis0)
    {beta}
    held = Squeeze (updates, axis0)
    old = Slice (held, axis0, repeated)
    sizes = Constant <value_ints = [{heads}, {key_heads * key_size}, {heads * value_size}]> ()
    old_decays, old_keys2, old_added2 = Split <axis = 1> (old, sizes)
    old_keys = Reshape (old_keys2, key_shape)
    old_added = Reshape (old_added2, value_shape)
    all_keys = Concat <axis = 0> (old_keys, keys)
    all_queries = Concat <axis = 0> (old_keys, queries)
    all_values = Concat <axis = 0> (old_added, values)
    all_decays = Concat <axis = 0> (old_decays, decays)
    all_rates = Concat <axis = 0> (old_decays, rates)
    start = Constant <value_int = 0> ()
    unit = Constant <value_int = 1> ()
    last = Squeeze (count)
    number = Range (start, last, unit)
    is_new = GreaterOrEqual (number, repeated)
    folds = Less (number, folded)
    state0 = Squeeze (base, axis0)
    final, moved, read, added = Scan <num_scan_inputs = 7, body = body (
            float[{heads}, {key_size}, {value_size}] state, float[{heads}, {key_size}, {value_size}] kept,
            float[{key_heads}, {key_size}] k, float[{key_heads}, {key_size}] q, float[{heads}, {value_size}] v,
            float[{heads}] decay, float[{heads}] beta, bool new, bool fold)
        => (float[{heads}, {key_size}, {value_size}] after, float[{heads}, {key_size}, {value_size}] stays,
            float[{heads}, {value_size}] out, float[{heads}, {value_size}] d) {{
            axis1 = Constant <value_ints = [1]> ()
            scalar = Constant <value_ints = [{heads}, 1, 1]> ()
            {texts["spread"]}
            fade = Reshape (decay, scalar)
            faded = Mul (state, fade)
            {texts["rule"]}
            d = Where (new, fresh, v)
            d3 = Unsqueeze (d, axis1)
            change = Mul (kc, d3)
            after = Add (faded, change)
            out3 = MatMul (qr, after)
            out = Squeeze (out3, axis1)
            stays = Where (fold, after, kept)
        }}> (state0, state0, all_keys, all_queries, all_values, all_decays, all_rates, is_new, folds)
    present_base = Unsqueeze (moved, axis0)
    new_read = Slice (read, repeated, count)
    y_shape = Constant <value_ints = [1, -1, {heads * value_size}]> ()
    y = Reshape (new_read, y_shape)
    row = Constant <value_ints = [0, -1]> ()
    key_rows = Reshape (all_keys, row)
    added_rows = Reshape (added, row)
    all_updates = Concat <axis = 1> (all_decays, key_rows, added_rows)
    pending = Slice (all_updates, folded, count)
    held_shape = Shape (held)
    blank = ConstantOfShape (held_shape)
    filled = Concat <axis = 0> (pending, blank)
    places = Shape <start = 0, end = 1> (held)
    first = Slice (filled, axis0, places)
    present_updates = Unsqueeze (first, axis0)
}}"""
    return text, f"{heads}x{key_heads}x{key_size}x{value_size}{'d' if delta else ''}{'n' if epsilon else ''}"


def _normed(name: str, result: str, epsilon: float, scale: float | None) -> str:
    """``result`` as heads of ``name``, of length one if there is an ``epsilon``, then scaled."""
    lines = [f"    {name}_heads = Reshape ({name}, key_shape)"]
    last = f"{name}_heads"
    if epsilon:
        lines += [
            f"    {name}_axis = Constant <value_ints = [2]> ()",
            f"    {name}_square = ReduceSumSquare ({last}, {name}_axis)",
            f"    {name}_epsilon = Constant <value_float = {epsilon!r}> ()",
            f"    {name}_sum = Add ({name}_square, {name}_epsilon)",
            f"    {name}_root = Sqrt ({name}_sum)",
            f"    {name}_inverse = Reciprocal ({name}_root)",
            f"    {name}_unit = Mul ({last}, {name}_inverse)",
        ]
        last = f"{name}_unit"
    if scale is None or scale == 1.0:
        return "\n".join([*lines, f"    {result} = Identity ({last})"])
    return "\n".join(
        [
            *lines,
            f"    {name}_scale = Constant <value_float = {scale!r}> ()",
            f"    {result} = Mul ({last}, {name}_scale)",
        ]
    )


STATE_DEFINITIONS: Mapping[str, Callable[[ir.Node], tuple[str, str]]] = {
    CONVOLUTION: _convolution,
    RECURRENCE: _recurrence,
}
