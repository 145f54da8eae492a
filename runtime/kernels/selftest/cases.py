"""The cases of the self-test: every operator on random data, with the outputs that the specification demands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.kernels.selftest import reference
from runtime.kernels.selftest.attention_reference import ReferenceAttention
from runtime.kernels.selftest.expert_cases import expert_cases
from runtime.kernels.selftest.matrices import high_half, make_matrix, packed
from runtime.kernels.selftest.numbers import Numbers
from runtime.kernels.selftest.onnx_bytes import Attribute, GraphNode, ValueType, encode_model
from runtime.kernels.selftest.reference import Floats, QuantizedMatrix
from runtime.kernels.selftest.state_cases import state_cases

# One row, and numbers of rows below and above the 16 of a tile; most are no multiple of anything.
_ROWS = (1, 2, 7, 19)
_EPSILON = 1e-6
# Nine rows of a chain, cut into steps in two ways; a bias hides what a tree would hide.
_STEPS = ((9,), (5, 1, 3))
_CAPACITY = 11

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_INPUTS = {
    "MatMulPanel": ("A", "codes", "scales", "zero_points", "bias", "gain", "residual"),
    "GatherPanel": ("ids", "codes", "scales", "zero_points"),
    "CachedAttention": (
        *(
            "qkv",
            "past_key",
            "past_value",
            "position_ids",
            "total",
            "cos",
            "sin",
            "tree_bias",
            "q_gain",
            "k_gain",
            "sinks",
        ),
    ),
    "ShortConvolution": ("x", "weight", "bias", "past", "total"),
    "Router": ("x", "weight", "bias", "choice_bias"),
    "RoutedExperts": (
        *("x", "experts", "weights", "gate_up", "gate_up_scales", "gate_up_zeros", "down", "down_scales", "down_zeros"),
        *("gate_up_bias", "down_bias"),
    ),
    "LinearRecurrence": (
        *("query", "key", "value", "log_decay", "beta", "base", "updates", "replay"),
        *("decay_bias", "decay_rate", "gate", "gain"),
    ),
}


@dataclass(frozen=True)
class Trial:
    """Inputs of one call, and its expected outputs; where an output is larger, its first entries."""

    given: Arrays
    expected: Arrays


@dataclass(frozen=True)
class Case:
    """One operator with attributes and constants, and calls of it."""

    name: str
    operator: str
    attributes: Mapping[str, Attribute]
    constants: Arrays
    trials: Sequence[Trial]

    def model(self) -> bytes:
        """A model of this one node. Its sizes are open, because the operator itself must refuse wrong ones."""
        first = self.trials[0]
        given, made = _open_types(first.given), _open_types(first.expected)
        known = {*self.constants, *given}
        names = [name if name in known else "" for name in _INPUTS[self.operator]]
        return encode_model([GraphNode(self.operator, names, list(made), self.attributes)], given, made, self.constants)


def cases() -> Iterator[Case]:
    """Every operator with every kind of weight, cache and option, in shapes that do not fill a tile."""
    kinds = ((4, 32, True, False), (4, 64, False, True), (8, 128, True, True), (8, 32, False, False))
    for bits, block, half, own_zeros in kinds:
        matrix = make_matrix(37, 203, bits, block, half=half, own_zeros=own_zeros)
        kind = f"int{bits}, blocks of {block}{', zero points' if own_zeros else ''}"
        yield _matmul(f"MatMulPanel ({kind})", [matrix])
        yield _gather(f"GatherPanel ({kind})", matrix)
    planes = make_matrix(37, 203, 8, 32, half=True, own_zeros=False, planes=2)
    yield _matmul("MatMulPanel (int8 in two planes)", [planes])
    yield _gather("GatherPanel (int8 in two planes)", planes)
    yield _matmul("MatMulPanel (high plane)", [high_half(planes)], scale=16.0)
    matrix = make_matrix(48, 160, 4, 32, half=True, own_zeros=False)
    yield _matmul("MatMulPanel with bias, gain and residual", [matrix], extra=("bias", "gain", "residual"))
    for activation in ("silu", "gelu_tanh"):
        pair = [make_matrix(24, 96, 4, 32, half=True, own_zeros=False, seed=seed) for seed in (1, 2)]
        yield _matmul(f"MatMulPanel with {activation}", pair, activation, extra=("gain",))
    yield from _attentions()
    for name, operator, attributes, calls in (*state_cases(), *expert_cases()):
        yield Case(name, operator, attributes, {}, [Trial(*call) for call in calls])


def refusals() -> Iterator[tuple[str, Case]]:
    """Cases with one input of a wrong size, each after the name of that input."""
    product = _matmul("MatMulPanel", [make_matrix(37, 203, 4, 32, half=True, own_zeros=False)])
    yield "codes", replace(product, constants={**product.constants, "codes": product.constants["codes"][:-1]})
    yield "A", _with_input(product, "A", product.trials[0].given["A"][..., :-1])
    attention = next(_attentions())
    yield "qkv", _with_input(attention, "qkv", attention.trials[0].given["qkv"][..., :-1])


def _open_types(arrays: Arrays) -> dict[str, ValueType]:
    return {
        name: ValueType(array.dtype.name, tuple(f"{name}{axis}" for axis in range(array.ndim)))
        for name, array in arrays.items()
    }


def _with_input(case: Case, name: str, array: Array) -> Case:
    return replace(case, trials=[replace(case.trials[0], given={**case.trials[0].given, name: array})])


def _by_rows(given: Arrays, expected: Floats) -> list[Trial]:
    """Calls with the first and the last rows, for several numbers of rows: results must not depend on the number."""
    trials = []
    for rows in _ROWS:
        for part in (slice(0, rows), slice(len(expected) - rows, len(expected))):
            inputs = {name: array[None, part] for name, array in given.items()}
            trials.append(Trial(inputs, {"Y": expected[None, part]}))
    return trials


def _matmul(
    name: str,
    matrices: Sequence[QuantizedMatrix],
    activation: str | None = None,
    extra: Sequence[str] = (),
    scale: float = 1.0,
) -> Case:
    """``extra`` names the optional inputs to use: "bias", "gain", "residual"."""
    n, k = matrices[0].codes.shape
    rows = max(_ROWS)
    numbers = Numbers(n, k)
    # Rows of different magnitudes.
    x = numbers.bell((rows, k)) * numbers.uniform(0.1, 1, (rows, 1)) * numbers.integers(1, 9, (rows, 1), np.float32)
    x[3], x[5, 7], x[6, 9] = 0, np.inf, np.nan
    shapes: dict[str, tuple[int, ...]] = {"bias": (n * len(matrices),), "gain": (k,), "residual": (rows, n)}
    options = {name: numbers.bell(shapes[name]) for name in extra}
    attributes: dict[str, Attribute] = {"K": k, "N": n, "bits": matrices[0].bits, "block_size": matrices[0].block}
    attributes |= _planes(matrices[0]) | ({"scale": scale} if scale != 1 else {})
    attributes |= {"epsilon": _EPSILON} if "gain" in extra else {}
    attributes |= {"activation": activation} if activation else {}
    expected = reference.matmul_panel(x, matrices, activation=activation, epsilon=_EPSILON, scale=scale, **options)
    given = {"A": x, **{name: options.pop(name) for name in ("residual",) if name in options}}
    return Case(name, "MatMulPanel", attributes, {**packed(matrices), **options}, _by_rows(given, expected))


def _planes(matrix: QuantizedMatrix) -> dict[str, Attribute]:
    return {"planes": matrix.planes} if matrix.planes != 1 else {}


def _gather(name: str, matrix: QuantizedMatrix) -> Case:
    n, k = matrix.codes.shape
    ids = np.arange(max(_ROWS), dtype=np.int64) * 5 % n
    attributes: dict[str, Attribute] = {"K": k, "N": n, "bits": matrix.bits, "block_size": matrix.block, "scale": 1.5}
    attributes |= _planes(matrix)
    expected = np.stack([matrix.row(index, 1.5) for index in ids])
    return Case(name, "GatherPanel", attributes, packed([matrix]), _by_rows({"ids": ids}, expected))


def _attentions() -> Iterator[Case]:
    numbers = Numbers(1)
    cos, sin = (numbers.uniform(-1, 1, (32, 12)) for _ in range(2))
    plain = ReferenceAttention(4, 2, 24, 0.2, cos=cos, sin=sin)
    yield _attention("CachedAttention", plain)
    gains = numbers.bell((2, 24))
    tree = replace(plain, kv_type="float16", softcap=3.0, query_gain=gains[0], key_gain=gains[1], epsilon=_EPSILON)
    yield _attention("CachedAttention (float16, tree, softcap, norms)", tree, tree=True)
    part = replace(plain, kv_type="int8", window=4, interleaved=True, cos=cos[:, :4].copy(), sin=sin[:, :4].copy())
    yield _attention("CachedAttention (int8, window, part of a rotary)", part)
    yield _attention("CachedAttention (int4, tree)", replace(plain, kv_type="int4"), tree=True)
    sinks = Numbers(3).bell((4,)) * np.float32(2)
    yield _attention("CachedAttention (window, tree, sinks)", replace(plain, window=4, sinks=sinks), tree=True)


def _attention(name: str, attention: ReferenceAttention, *, tree: bool = False) -> Case:
    """Rows in steps of several sizes; each step reads the rows before it from the cache."""
    numbers = Numbers(2)
    width = (attention.heads + 2 * attention.kv_heads) * attention.head_size
    trials = []
    for steps in _STEPS:
        stored = attention.store(np.zeros((attention.kv_heads, 0, attention.head_size), np.float32))
        keys, values, past = stored, stored, 0
        for rows in steps:
            qkv = numbers.bell((rows, width))
            bias = _tree_bias(rows, past) if tree else None
            positions = past + np.arange(rows)
            if bias is not None:
                positions = past + np.count_nonzero(bias[:, past:] == 0, axis=1) - 1
            y, new_keys, new_values = attention.run(qkv, positions, keys, values, bias)
            given = {"qkv": qkv[None], "past_key": _room(keys), "past_value": _room(values)}
            given |= {"position_ids": positions[None], "total": np.array([past + rows])}
            given |= {} if bias is None else {"tree_bias": bias[None, None]}
            trials.append(
                Trial(given, {"Y": y[None], "present_key": new_keys[None], "present_value": new_values[None]})
            )
            keys, values, past = new_keys, new_values, past + rows
    return Case(name, "CachedAttention", _attributes(attention), _constants(attention), trials)


def _attributes(attention: ReferenceAttention) -> dict[str, Attribute]:
    assert attention.cos is not None
    return {
        "num_heads": attention.heads,
        "kv_num_heads": attention.kv_heads,
        "scale": attention.scale,
        "window": attention.window,
        "softcap": attention.softcap,
        "interleaved": int(attention.interleaved),
        "rotary_dim": 2 * attention.cos.shape[1],
        "epsilon": attention.epsilon,
    }


def _constants(attention: ReferenceAttention) -> Arrays:
    named = {"cos": attention.cos, "sin": attention.sin, "q_gain": attention.query_gain, "k_gain": attention.key_gain}
    named["sinks"] = attention.sinks
    return {name: array for name, array in named.items() if array is not None}


def _tree_bias(rows: int, past: int) -> Floats:
    """A binary tree: row i follows row (i - 1) // 2. Visible keys have a bias of 0, hidden ones -1e30."""
    seen = np.eye(rows, dtype=np.bool_)
    for row in range(1, rows):
        seen[row] |= seen[(row - 1) // 2]
    whole = np.concatenate([np.ones((rows, past), np.bool_), seen], 1)
    return np.where(whole, np.float32(0), np.float32(-1e30))


def _room(stored: Array) -> Array:
    """A cache [1, kv_heads, capacity, width] that begins with ``stored``; the rest must not be read."""
    full = np.full((1, stored.shape[0], _CAPACITY, stored.shape[2]), 77, stored.dtype)
    full[0, :, : stored.shape[1]] = stored
    return full
