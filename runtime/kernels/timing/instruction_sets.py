"""Times every instruction set of this processor on the same work, in turns, so that a best one that is slow is seen.

The work is small products and one layer of attention, so that arithmetic is timed and not memory. Data is random, since
times do not depend on it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from runtime.kernels.backends import PORTABLE
from runtime.kernels.library import ISA_VARIABLE, PLAIN, Library
from runtime.kernels.selftest.numbers import Numbers
from runtime.kernels.selftest.onnx_bytes import Attribute, GraphNode, ValueType, encode_model
from runtime.kernels.weights.layout import MatrixLayout

# Calls of every instruction set, one at a time in turns; the median ignores interrupted ones.
_TURNS = 101
_ROWS = (1, 4, 8, 16)
_SHAPE = (1024, 1024)
# A layer of the demo's target after a thousand tokens.
_HEADS, _KV_HEADS, _HEAD_SIZE, _PAST = 8, 4, 32, 1000
_CACHES = {"fp32": "float32", "fp16": "float16", "int8": "int8", "int4": "uint8"}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """One piece of work: median seconds by instruction set, the best set of the processor first."""

    work: str
    seconds: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """The seconds of each set over those of the first."""
        first = next(iter(self.seconds.values()))
        return {name: seconds / first for name, seconds in self.seconds.items()}


def compare_sets(library: Library, threads: int) -> Iterator[Comparison]:
    """Times int4 and int8 products and attention over every type of cache, at several numbers of rows."""
    sets = [name for name in library.verdict.usable if name != PLAIN]
    for bits in (4, 8):
        model = _product(bits)
        for rows in _ROWS:
            given = {"A": Numbers(rows).bell((1, rows, _SHAPE[0]))}
            runs = {name: _product_run(model, library, name, threads, given) for name in sets}
            yield Comparison(f"int{bits} product of {_SHAPE[0]} x {_SHAPE[1]}, rows {rows}", _times(runs))
    for kv_type in _CACHES:
        for rows in _ROWS:
            runs = {name: _attention_run(kv_type, rows, library, name, threads) for name in sets}
            yield Comparison(f"attention over {_PAST} rows of {kv_type}, rows {rows}", _times(runs))


def _times(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_TURNS + 1):
        for name, run in runs.items():
            start = perf_counter()
            run()
            if turn:  # the first call warms up
                taken[name].append(perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


@contextmanager
def _forced(name: str) -> Iterator[None]:
    """Within this context, new sessions use the instruction set ``name``."""
    before = os.environ.get(ISA_VARIABLE)
    os.environ[ISA_VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[ISA_VARIABLE]
        if before is not None:
            os.environ[ISA_VARIABLE] = before


def _session(model: bytes, library: Library, name: str, threads: int) -> ort.InferenceSession:
    options = PORTABLE.session_options(threads)
    with _forced(name):
        library.register(options, threads)
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=False)


def _product(bits: int) -> bytes:
    k, n = _SHAPE
    layout = MatrixLayout(n, k, bits, 128)
    constants: Arrays = {
        "codes": Numbers(bits).integers(0, 256, layout.codes_shape, np.uint8),
        "scales": np.ones(layout.scales_shape, np.float16),
    }
    attributes: dict[str, Attribute] = {"K": k, "N": n, "bits": bits, "block_size": 128}
    node = GraphNode("MatMulPanel", ["A", "codes", "scales"], ["Y"], attributes)
    given, made = {"A": ValueType("float32", (1, "S", k))}, {"Y": ValueType("float32", (1, "S", n))}
    return encode_model([node], given, made, constants)


def _product_run(model: bytes, library: Library, name: str, threads: int, given: Arrays) -> Callable[[], None]:
    session = _session(model, library, name, threads)
    return lambda: session.run(None, given)


def _attention_run(kv_type: str, rows: int, library: Library, name: str, threads: int) -> Callable[[], None]:
    """One step of ``rows`` rows, with its cache in place; every call runs the same step."""
    element = _CACHES[kv_type]
    width = {"int8": _HEAD_SIZE + 4, "int4": _HEAD_SIZE // 2 + 4}.get(kv_type, _HEAD_SIZE)
    cache = ValueType(element, (1, _KV_HEADS, "C", width))
    given = {
        "qkv": ValueType("float32", (1, "S", (_HEADS + 2 * _KV_HEADS) * _HEAD_SIZE)),
        "past_key": cache,
        "past_value": cache,
        "position_ids": ValueType("int64", (1, "S")),
        "total": ValueType("int64", (1,)),
    }
    made = {
        "Y": ValueType("float32", (1, "S", _HEADS * _HEAD_SIZE)),
        "present_key": cache,
        "present_value": cache,
    }
    attributes: dict[str, Attribute] = {"num_heads": _HEADS, "kv_num_heads": _KV_HEADS, "scale": 0.125}
    model = encode_model([GraphNode("CachedAttention", list(given), list(made), attributes)], given, made, {})
    session = _session(model, library, name, threads)
    binding = session.io_binding()
    inputs: Arrays = {
        "qkv": Numbers(rows).bell((1, rows, (_HEADS + 2 * _KV_HEADS) * _HEAD_SIZE)),
        "position_ids": np.arange(_PAST, _PAST + rows)[None],
        "total": np.array([_PAST + rows]),
    }
    held: list[Any] = [inputs]  # older versions of ONNX Runtime do not keep bound arrays alive
    for key, array in inputs.items():
        binding.bind_cpu_input(key, array)
    for key in ("key", "value"):
        held.append(ort.OrtValue.ortvalue_from_numpy(np.zeros((1, _KV_HEADS, 1024, width), element)))
        binding.bind_ortvalue_input(f"past_{key}", held[-1])
        binding.bind_ortvalue_output(f"present_{key}", held[-1])
    binding.bind_output("Y")

    def run(held: Sequence[Any] = held) -> None:
        session.run_with_iobinding(binding)

    return run
