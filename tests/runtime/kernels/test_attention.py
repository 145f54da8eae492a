"""CachedAttention: right numbers, and rows whose bits depend on nothing but themselves and the keys they see."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from runtime.kernels.selftest.attention_reference import ReferenceAttention
from runtime.kernels.selftest.run import describe
from runtime.models.io_binding import ancestors
from tests.runtime.kernels.attention_op import (
    HIDDEN,
    POSITIONS,
    Floats,
    Layer,
    Shape,
    expected,
    open_session,
    same_bits,
)

KINDS = ("float32", "float16", "int8", "int4")
SHAPES = {
    "grouped": Shape(heads=6, kv_heads=2, size=64),
    "interleaved, part of a head": Shape(heads=3, kv_heads=3, size=40, rotary_dim=24, interleaved=True),
    "gains, window, softcap": Shape(heads=7, kv_heads=1, size=80, gains=True, window=9, softcap=2.5),
    "no rotary, odd size": Shape(heads=8, kv_heads=2, size=19, rotary_dim=None, window=30),
    "odd halves": Shape(heads=2, kv_heads=1, size=18, rotary_dim=10, softcap=30.0),
    "partial halves": Shape(heads=2, kv_heads=1, size=32, rotary_dim=20, softcap=30.0),
}
# Two codes of four bits share a byte.
CACHED = {
    f"{name}, {kind}": replace(shape, kind=kind)
    for name, shape in SHAPES.items()
    for kind in KINDS
    if kind != "int4" or shape.size % 2 == 0
}
cases = pytest.mark.parametrize("shape", CACHED.values(), ids=CACHED)
kinds = pytest.mark.parametrize("kind", KINDS)
# Of the largest magnitude that a key has: how far its neighbours among the values that can be stored are apart. Sixteen
# codes over what a mixed row spans, and errors that mixing back averages.
STEPS = {"float32": 1e-6, "float16": 2**-10, "int8": 1 / 127, "int4": 1 / 4}


def run_widths(layer: Layer, rows: Floats, widths: Sequence[int]) -> Floats:
    """The outputs of all rows, fed from an empty cache in steps of these widths."""
    layer.clear()
    ends = np.cumsum(widths)
    assert ends[-1] == len(rows)
    return np.concatenate([layer.step(rows[end - width : end]) for width, end in zip(widths, ends, strict=True)])


@cases
def test_numbers_are_those_of_float64(native_library: Path, shape: Shape) -> None:
    layer = Layer(native_library, shape, threads=2)
    rows = shape.rows(70)
    rng = np.random.default_rng(5)
    for start, end in ((0, 41), (41, 42), (42, 47), (47, 70)):
        bias = None
        if start > 41:
            bias = rng.standard_normal((end - start, end)).astype(np.float32)
            bias[rng.random(bias.shape) < 0.2] = HIDDEN
        positions = range(start, end)
        found = layer.step(rows[start:end], positions, bias)
        wanted, keys = expected(layer, rows[start:end], positions, bias)
        # A capped score carries the rounding of 1 - 2 / (1 + exp), times the cap.
        np.testing.assert_allclose(found, wanted, atol=3e-6 + 3e-7 * shape.softcap, rtol=0)
        stored = layer.stored()[0][:, start:]
        assert np.abs(stored - keys).max() <= 0.51 * STEPS[shape.kind] * np.abs(keys).max() + 2e-6


WIDTHS = ([40, 1, 2, 3, 4, 5, 6, 7, 7], [75], [13, 16, 1, 32, 13])


def check_widths(library: Path, shape: Shape, ways: Iterable[tuple[int, list[int]]]) -> None:
    """Steps of other widths, on so many threads, leave what single rows leave, bit for bit: outputs and cache."""
    rows, single = shape.rows(75), Layer(library, shape, 1)
    wanted = run_widths(single, rows, [1] * 75)
    for threads, widths in ways:
        layer = Layer(library, shape, threads)
        assert same_bits(run_widths(layer, rows, widths), wanted)
        assert same_bits(layer.keys, single.keys)
        assert same_bits(layer.values, single.values)


@cases
def test_rows_do_not_depend_on_width_or_threads(native_library: Path, shape: Shape) -> None:
    check_widths(native_library, shape, zip((1, 2, 3), WIDTHS, strict=True))


@pytest.mark.slow
@cases
def test_nor_do_they_with_any_widths_on_any_number_of_threads(native_library: Path, shape: Shape) -> None:
    check_widths(native_library, shape, product((1, 2, 3, 4), WIDTHS))


@cases
def test_a_tree_path_equals_that_path_alone(native_library: Path, shape: Shape) -> None:
    layer = Layer(native_library, shape, threads=2)
    past, count = 37, 14
    parents = [-1, 0, 0, 1, 2, 1, 5, 4, 4, 6, 3, 9, 2, 12]
    visible = ancestors(parents, count)
    rows, nodes = shape.rows(past), shape.rows(count, seed=1)
    bias = np.zeros((count, past + count), np.float32)
    bias[:, past:] = np.where(visible, 0, HIDDEN)
    layer.step(rows)
    tree = layer.step(nodes, (past - 1 + visible.sum(1)).tolist(), bias)
    for node in range(count):
        path = np.flatnonzero(visible[node])
        layer.length = past
        assert same_bits(layer.step(nodes[path])[-1], tree[node])


@kinds
@pytest.mark.parametrize("softcap", [0.0, 4.0])
def test_hidden_keys_do_not_count_at_all(native_library: Path, kind: str, softcap: float) -> None:
    """A row gives the same bits as over a cache that never held what is hidden from it, even where that is NaN."""
    shape = Shape(heads=6, kv_heads=2, size=48, kind=kind, rotary_dim=None, softcap=softcap)
    full, short = Layer(native_library, shape, threads=2), Layer(native_library, shape)
    rows, new = shape.rows(90), shape.rows(3, seed=1)
    kept = np.random.default_rng(3).random(90) < 0.6
    kept[:20], kept[20:24] = True, False
    spoiled = np.where(kept[:, None], rows, np.float32(np.nan))
    bias = np.zeros((3, 93), np.float32)
    bias[:, :90] = np.where(kept, 0, HIDDEN)
    full.step(spoiled)
    short.step(rows[kept])
    assert same_bits(full.step(new, bias=bias), short.step(new))


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 12)])
def test_a_bias_is_broadcast(native_library: Path, shape: tuple[int, int]) -> None:
    layer = Layer(native_library, Shape())
    rows = layer.shape.rows(12)
    layer.step(rows[:7])
    bias = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = layer.step(rows[7:], bias=bias)
    layer.length = 7
    assert same_bits(found, layer.step(rows[7:], bias=np.broadcast_to(bias, (5, 12))))


def test_a_row_that_sees_nothing_becomes_zeros(native_library: Path) -> None:
    layer = Layer(native_library, Shape())
    rows = layer.shape.rows(4)
    bias = np.zeros((4, 4), np.float32)
    bias[1] = HIDDEN
    found = layer.step(rows, bias=bias)
    assert not found[1].any()
    assert np.abs(found[[0, 2, 3]]).min() > 0
    layer.clear()
    assert not layer.step(rows, bias=np.full((1, 1), HIDDEN)).any()


@kinds
def test_what_is_not_a_number_stays_with_the_rows_that_see_it(native_library: Path, kind: str) -> None:
    shape = Shape(kind=kind, softcap=5.0)
    layer = Layer(native_library, shape, threads=2)
    rows = shape.rows(8)
    wanted = run_widths(layer, rows, [8])
    for place, value in ((0, np.nan), (5 * shape.size, np.inf), (7 * shape.size, np.nan)):
        spoiled = rows.copy()
        spoiled[4, place] = value
        found = run_widths(layer, spoiled, [8])
        assert same_bits(found[:4], wanted[:4])
        assert np.isnan(found[4]).any()


@kinds
@pytest.mark.parametrize("instruction_set", ["", "portable"])
def test_values_are_stored_as_specified(
    native_library: Path, kind: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the nearest, ties to even; for halves also subnormal and too large ones, for codes also rows of zeros."""
    monkeypatch.setenv("POCKETSPEC_ISA", instruction_set)
    shape = Shape(kind=kind, size=64, capacity=64)
    layer = Layer(native_library, shape)
    rows = shape.rows(64)
    values = rows[:, -shape.size * shape.kv_heads :].reshape(64, shape.kv_heads, shape.size)
    values *= 10.0 ** np.arange(-9, 7)[:, None, None].repeat(4, 0)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    values[:2] = np.nextafter(halves[:256], np.inf).reshape(2, 2, 64)
    values[2:6] = ((halves[1000:1512] + halves[1001:1513]) / 2).reshape(4, 2, 64)
    values[6], values[7, 0, :4] = 0, (65519.9, 65520, -65520, 1e9)
    values[8:16] = np.random.default_rng(1).integers(-4, 5, (8, 2, 64))
    if kind == "int4":
        values[16, :, 3], values[17] = (np.nan, -np.inf), 3e38
    layer.step(rows)
    found = layer.values[0].transpose(1, 0, 2)
    if kind == "int4":
        wanted: npt.NDArray[Any] = ReferenceAttention(4, 2, 64, 1.0, kind).store(values)
    elif kind == "int8":
        largest = np.abs(values).max(-1, keepdims=True)
        factor = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest >= 1e-30)
        codes = np.rint(values * factor).astype(np.int8)
        wanted = np.concatenate([codes, (largest / np.float32(127)).view(np.int8)], -1)
    else:
        with np.errstate(over="ignore"):
            wanted = values.astype(kind)
    assert same_bits(np.ascontiguousarray(found), wanted)


@cases
def test_every_instruction_set_gives_the_same_bits(
    native_library: Path, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = shape.rows(44)
    bias = np.random.default_rng(2).standard_normal((11, 44)).astype(np.float32)
    bias[bias > 1] = HIDDEN
    outputs = []
    for name in json.loads(describe(native_library))["usable"]:
        monkeypatch.setenv("POCKETSPEC_ISA", name)
        layer = Layer(native_library, shape)
        outputs.append((run_widths(layer, rows[:33], [20, 3, 10]), layer.step(rows[33:], bias=bias), layer.keys))
    for found in outputs[1:]:
        assert all(same_bits(left, right) for left, right in zip(found, outputs[0], strict=True))


@kinds
def test_without_a_bound_cache_the_past_is_copied(native_library: Path, kind: str) -> None:
    shape = Shape(kind=kind)
    layer = Layer(native_library, shape)
    rows = shape.rows(9)
    layer.step(rows[:6])
    keys, values = layer.keys.copy(), layer.values.copy()
    given = {"qkv": rows[None, 6:], "past_key": keys, "past_value": values, "position_ids": np.arange(6, 9)[None]}
    y, *present = open_session(shape.model(), native_library, 1).run(None, {**given, "total": np.array([9])})
    assert same_bits(keys, layer.keys)
    assert same_bits(y[0], layer.step(rows[6:]))
    assert same_bits(present[0], layer.keys)
    assert same_bits(present[1], layer.values)


def test_no_rows_change_nothing(native_library: Path) -> None:
    layer = Layer(native_library, Shape())
    rows = layer.shape.rows(5)
    layer.step(rows)
    keys = layer.keys.copy()
    assert layer.step(rows[:0]).shape == (0, 128)
    assert same_bits(layer.keys, keys)


def cache(*sizes: int) -> Floats:
    return np.zeros(sizes, np.float32)


REFUSALS = {
    "qkv: width": ({"qkv": cache(1, 3, 250)}, "qkv has rows of 250"),
    "qkv: batch": ({"qkv": cache(2, 3, 256)}, "expected shape [1, S, 8 * D]"),
    "past_key": (
        {"past_key": cache(1, 2, 16, 31)},
        "past_key has 992 elements in 4 axes, expected shape [1, 2, capacity, 32]",
    ),
    "past_value": ({"past_value": cache(1, 1, 16, 32)}, "past_value has 512 elements"),
    "past_value: smaller": ({"past_value": cache(1, 2, 2, 32)}, "total is 3, more than the 2 rows of past_value"),
    "total: too many": (
        {"total": np.array([17])},
        "total is 17, more than the 16 rows of past_key; use a larger cache",
    ),
    "total: too few": ({"total": np.array([2])}, "at least the 3 rows of qkv"),
    "total: negative": ({"total": np.array([-(2**63)])}, "at least the 3 rows of qkv"),
    "total: several": ({"total": np.array([3, 3])}, "total has 2 elements"),
    "positions: count": ({"position_ids": np.arange(4)[None]}, "position_ids has 4 elements, expected 3"),
    "positions: above": ({"position_ids": np.array([[0, 1, POSITIONS]])}, "position_ids has 512, outside 0 .. 511"),
    "positions: below": ({"position_ids": np.array([[0, -1, 2]])}, "position_ids has -1, outside"),
    "bias": ({"tree_bias": cache(1, 1, 3, 4)}, "tree_bias has 12 elements in 4 axes, expected shape [1, 1, 3, 3]"),
    "cos": ({"cos": cache(POSITIONS, 15)}, "cos has 7680 elements in 2 axes, expected shape [positions, 16]"),
    "sin": ({"sin": cache(POSITIONS - 1, 16)}, "sin has 8176 elements"),
    "q_gain": ({"q_gain": cache(31)}, "q_gain has 31 elements, expected 32"),
    "k_gain": ({"k_gain": cache(33)}, "k_gain has 33 elements, expected 32"),
}


@pytest.mark.parametrize(("changed", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_operator_and_tensor(native_library: Path, changed: dict[str, Any], message: str) -> None:
    given = {
        "qkv": cache(1, 3, 256),
        "past_key": cache(1, 2, 16, 32),
        "past_value": cache(1, 2, 16, 32),
        "position_ids": np.arange(3)[None],
        "total": np.array([3]),
        "tree_bias": cache(1, 1, 3, 3),
    }
    inputs = {name: changed.get(name, array) for name, array in given.items()}
    constants = {name: array for name, array in changed.items() if name not in given}
    session = open_session(Shape(gains=True).model(True, **constants), native_library, 1)
    with pytest.raises(Exception, match="CachedAttention") as refusal:
        session.run(None, inputs)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("size", "width", "message"),
    [
        (31, 19, "past_key has four bits, which need an even head size, not 31; use a cache of int8"),
        (32, 16, "past_key has 512 elements in 4 axes, expected shape [1, 2, capacity, 20]"),
        (32, 36, "past_key has 1152 elements in 4 axes, expected shape [1, 2, capacity, 20]"),
    ],
)
def test_refused_caches_of_four_bits(native_library: Path, size: int, width: int, message: str) -> None:
    held = np.zeros((1, 2, 16, width), np.uint8)
    given = {"qkv": cache(1, 3, 8 * size), "past_key": held, "past_value": held, "position_ids": np.arange(3)[None]}
    session = open_session(Shape(kind="int4", size=size, rotary_dim=None).model(), native_library, 1)
    with pytest.raises(Exception, match="CachedAttention") as refusal:
        session.run(None, {**given, "total": np.array([3])})
    assert message in str(refusal.value)


ATTRIBUTES = {
    "heads": (Shape(heads=5), "num_heads 5 must be a multiple of kv_num_heads 2"),
    "window": (Shape(window=-1), "window -1 and softcap 0 must not be negative"),
    "softcap": (Shape(softcap=-2.0), "softcap -2 must not be negative"),
}


@pytest.mark.parametrize(("shape", "message"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_refused_attributes(native_library: Path, shape: Shape, message: str) -> None:
    with pytest.raises(Exception, match="CachedAttention") as refusal:
        open_session(shape.model(), native_library, 1)
    assert message in str(refusal.value)
