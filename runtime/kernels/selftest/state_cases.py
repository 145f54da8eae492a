"""Calls of the operators of states, with the outputs that the specification demands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from runtime.kernels.selftest.numbers import Numbers
from runtime.kernels.selftest.onnx_bytes import Attribute
from runtime.kernels.selftest.reference import Floats
from runtime.kernels.selftest.state_reference import convolve, run_rows

_EPSILON = 1e-6
# Columns that fill registers of every width, and some that fill none.
_HEADS, _KEY_HEADS, _KEY, _VALUE = 4, 2, 20, 117
_HELD = 7

Arrays = dict[str, np.ndarray]
# Name, operator, attributes, and inputs and outputs of every call.
StateCase = tuple[str, str, Mapping[str, Attribute], list[tuple[Arrays, Arrays]]]


def state_cases() -> Iterator[StateCase]:
    """A convolution of five rows behind three, and both rules of a recurrence: rows kept, rejected and folded."""
    yield _convolution()
    for delta in (True, False):
        yield _recurrence(delta)


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
