"""Calls of the operators of states, with the outputs that the specification demands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from runtime.kernels.selftest.numbers import Numbers
from runtime.kernels.selftest.onnx_bytes import Attribute
from runtime.kernels.selftest.reference import Floats
from runtime.kernels.selftest.state_reference import convolve, gate_norm, run_rows, sigmoid, soften

_EPSILON = 1e-6
# Columns that fill registers of every width, and some that fill none.
_HEADS, _KEY_HEADS, _KEY, _VALUE = 4, 2, 20, 117
_HELD = 7

Arrays = dict[str, np.ndarray]
# Name, operator, attributes, and inputs and outputs of every call.
StateCase = tuple[str, str, Mapping[str, Attribute], list[tuple[Arrays, Arrays]]]


def state_cases() -> Iterator[StateCase]:
    """A convolution of five rows behind three, and both rules of a recurrence: rows kept, rejected and folded.

    Of either, one more that reads parts of wider rows and takes over what stands around it in a graph.
    """
    yield _convolution()
    yield _gated_convolution()
    for delta in (True, False):
        yield _recurrence(delta)
    yield _gated_recurrence()


def _convolution() -> StateCase:
    rng, channels, width, slots = Numbers(11), 37, 3, 6
    x, weight, bias = rng.bell((8, channels)), rng.bell((width, channels)), rng.bell((channels,))
    y = convolve(x, weight, bias, silu=True)
    ring = np.zeros((1, slots, channels), np.float32)
    ring[0, :3] = x[:3]
    after = ring.copy()
    for position in range(3, 8):
        after[0, position % slots] = x[position]
    given: Arrays = {"x": x[None, 3:], "weight": weight, "bias": bias, "past": ring, "total": np.array([8], np.int64)}
    attributes: dict[str, float | int] = {"width": width, "silu": 1}
    return "ShortConvolution", "ShortConvolution", attributes, [(given, {"y": y[None, 3:], "present": after})]


def _gated_convolution() -> StateCase:
    rng, channels, width, slots, rows = Numbers(14), 37, 4, 5, 3
    x, weight = rng.bell((1, rows, 3 * channels + 2)), rng.bell((width, channels))
    start, factor, gate = (x[0, :, first : first + channels] for first in (1, channels + 1, 2 * channels + 2))
    product = start * factor
    y = convolve(product, weight, None, silu=False) * gate
    after = np.zeros((1, slots, channels), np.float32)
    after[0, :rows] = product
    given: Arrays = {"x": x, "weight": weight, "past": np.zeros_like(after), "total": np.array([rows], np.int64)}
    attributes: dict[str, Attribute] = {"width": width, "silu": 0, "start": 1}
    attributes |= {"factor_start": channels + 1, "gate_start": 2 * channels + 2}
    return "ShortConvolution of products", "ShortConvolution", attributes, [(given, {"y": y[None], "present": after})]


def _gated_recurrence() -> StateCase:
    """One step of five rows, all inputs of which are parts of one row but the gate."""
    rng, rows, keys, values = Numbers(15), 5, _KEY_HEADS * _KEY, _HEADS * _VALUE
    x, gate = rng.bell((1, rows, 2 * keys + values + 2 * _HEADS)), rng.bell((1, rows, values + 3))
    query, key, value, decay, rate = np.split(x[0], np.cumsum([keys, keys, values, _HEADS]), axis=1)
    bias, decays, gain = rng.bell((_HEADS,)), -_positive(rng, _HEADS), rng.bell((_VALUE,))
    base = rng.bell((_HEADS, _KEY, _VALUE))
    heads = (
        query.reshape(rows, _KEY_HEADS, _KEY),
        key.reshape(rows, _KEY_HEADS, _KEY),
        value.reshape(rows, _HEADS, _VALUE),
    )
    log_decay = soften(decay + bias) * decays
    none = np.zeros((0, _HEADS * (1 + _VALUE) + keys), np.float32)
    y, _, pending = run_rows(base, none, 0, (*heads, log_decay, sigmoid(rate)), np.float32(0.3), _EPSILON)
    y = gate_norm(y, gain, gate[0, :, 3:].reshape(y.shape), _EPSILON)
    given: Arrays = {
        **dict.fromkeys(("query", "key", "value", "log_decay", "beta"), x),
        "base": base[None],
        "updates": np.zeros((1, _HELD, none.shape[1]), np.float32),
        "replay": np.array([0, 0], np.int64),
        "decay_bias": bias,
        "decay_rate": decays,
        "gate": gate,
        "gain": gain,
    }
    starts = {"key": keys, "value": 2 * keys, "decay": 2 * keys + values, "rate": 2 * keys + values + _HEADS, "gate": 3}
    attributes: dict[str, Attribute] = {"key_heads": _KEY_HEADS, "scale": 0.3, "epsilon": _EPSILON, "rate_sigmoid": 1}
    attributes |= {f"{name}_start": start for name, start in starts.items()} | {"gate_epsilon": _EPSILON}
    made: Arrays = {"y": y.reshape(1, rows, -1), "present_base": base[None], "present_updates": pending[None]}
    return "LinearRecurrence, gated norm", "LinearRecurrence", attributes, [(given, made)]


def _recurrence(delta: bool) -> StateCase:
    """Three steps: of four rows two are rejected, then one is, and a last one folds more rows than are held."""
    rng = Numbers(12 + delta)
    base = np.zeros((_HEADS, _KEY, _VALUE), np.float32)
    updates = np.zeros((_HELD, _HEADS * (1 + _VALUE) + _KEY_HEADS * _KEY), np.float32)
    calls, repeated = list[tuple[Arrays, Arrays]](), 0
    for rows, folded, kept in ((4, 0, 2), (3, 2, 2), (9, 4, 0)):
        keys, heads = (rows, _KEY_HEADS, _KEY), (rows, _HEADS)
        query, key, value = rng.bell(keys), rng.bell(keys), rng.bell((rows, _HEADS, _VALUE))
        decay = _positive(rng, *heads) * np.float32(-0.25)
        rate = _positive(rng, *heads) * np.float32(0.5) if delta else None
        given: Arrays = {
            "query": query.reshape(1, rows, -1),
            "key": key.reshape(1, rows, -1),
            "value": value.reshape(1, rows, -1),
            "log_decay": decay[None],
            **({} if rate is None else {"beta": rate[None]}),
            "base": base[None],
            "updates": updates[None],
            "replay": np.array([repeated, folded], np.int64),
        }
        y, base, pending = run_rows(
            base, updates[:repeated], folded, (query, key, value, decay, rate), np.float32(0.3), _EPSILON
        )
        calls.append(
            (given, {"y": y.reshape(1, rows, -1), "present_base": base[None], "present_updates": pending[None]})
        )
        updates = np.concatenate([pending, updates[len(pending) :]]) if len(pending) < _HELD else pending
        repeated = kept + repeated - folded
    name = f"LinearRecurrence, {'delta rule' if delta else 'gated'}"
    attributes: dict[str, float | int] = {"key_heads": _KEY_HEADS, "scale": 0.3, "epsilon": _EPSILON}
    return name, "LinearRecurrence", attributes, calls


def _positive(rng: Numbers, *shape: int) -> Floats:
    numbers: Floats = np.abs(rng.bell(shape)).astype(np.float32)
    return numbers
