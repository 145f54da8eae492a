"""Times products by their number of rows: MatMulPanel beside ONNX Runtime's MatMulNBits, in turns.

A model reads its weights from memory at every step. So each session here multiplies by several copies of a matrix, more
than a cache holds. Weights are random, since times do not depend on them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from runtime.kernels.backends import PORTABLE
from runtime.kernels.library import Library
from runtime.kernels.selftest.onnx_bytes import Attribute, GraphNode, ValueType, encode_model
from runtime.kernels.weights.layout import MatrixLayout

# Twice the last-level cache of a server's processor.
_WORKING_SET_BYTES = 96 << 20
_TURNS = 7

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ProductShape:
    """A product of K inputs and N outputs; ``name`` is its place in a model."""

    k: int
    n: int
    name: str = ""


# The five products of a Qwen2-1.5B layer and its head; q/k/v and gate/up are packed as in exports.
QWEN2_SHAPES = (
    ProductShape(1536, 2048, "q/k/v"),
    ProductShape(1536, 1536, "attention output"),
    ProductShape(1536, 17920, "gate/up"),
    ProductShape(8960, 1536, "down"),
    ProductShape(1536, 151936, "head"),
)


@dataclass(frozen=True)
class ProductTiming:
    """Median seconds of one product with ``rows`` rows, and the bytes of weights that it reads."""

    rows: int
    native_seconds: float
    native_bytes: int
    portable_seconds: float
    portable_bytes: int

    @property
    def native_rate(self) -> float:
        """Bytes of weights read per second."""
        return self.native_bytes / self.native_seconds

    @property
    def portable_rate(self) -> float:
        """Bytes of weights read per second."""
        return self.portable_bytes / self.portable_seconds


def measure(
    library: Library, shape: ProductShape, rows: Sequence[int], block_size: int, threads: int
) -> list[ProductTiming]:
    """Times both kernels in turns at every number of rows, with int4 weights in blocks of ``block_size``."""
    layout = MatrixLayout(shape.n, shape.k, 4, block_size)
    codes_bytes = int(np.prod(layout.portable_codes_shape))
    copies = max(1, _WORKING_SET_BYTES // codes_bytes)
    rng = np.random.default_rng(0)
    native, native_bytes = _native(layout, copies, library, threads, rng)
    portable, portable_bytes = _portable(layout, copies, threads, rng)
    times: dict[tuple[int, int], list[float]] = {}
    for turn in range(_TURNS + 1):
        for count in rows:
            given = {"A": rng.standard_normal((1, count, shape.k), np.float32)}
            for which, session in enumerate((native, portable)):
                start = perf_counter()
                session.run(None, given)
                if turn:  # the first call of each warms up
                    times.setdefault((count, which), []).append(perf_counter() - start)
    medians = {key: statistics.median(values) / copies for key, values in times.items()}
    return [ProductTiming(count, medians[count, 0], native_bytes, medians[count, 1], portable_bytes) for count in rows]


def _native(
    layout: MatrixLayout, copies: int, library: Library, threads: int, rng: np.random.Generator
) -> tuple[ort.InferenceSession, int]:
    options = PORTABLE.session_options(threads)
    library.register(options, threads)
    weights: list[Arrays] = [
        {"codes": _codes(layout.codes_shape, rng), "scales": np.ones(layout.scales_shape, np.float16)}
        for _ in range(copies)
    ]
    return _session("MatMulPanel", "pocketspec", {}, layout, weights, options)


def _portable(
    layout: MatrixLayout, copies: int, threads: int, rng: np.random.Generator
) -> tuple[ort.InferenceSession, int]:
    weights: list[Arrays] = [
        {"codes": _codes(layout.portable_codes_shape, rng), "scales": np.ones(layout.portable_scales_shape, np.float32)}
        for _ in range(copies)
    ]
    options = PORTABLE.session_options(threads)
    return _session("MatMulNBits", "com.microsoft", {"accuracy_level": 4}, layout, weights, options)


def _codes(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8).reshape(shape)


def _session(
    operator: str,
    domain: str,
    extra: dict[str, Attribute],
    layout: MatrixLayout,
    weights: Sequence[Arrays],
    options: ort.SessionOptions,
) -> tuple[ort.InferenceSession, int]:
    """A session with one node for every copy, all with the same input; and the bytes of one copy."""
    sizes: dict[str, Attribute] = {"K": layout.columns, "N": layout.rows, "bits": layout.bits}
    attributes = {**sizes, "block_size": layout.block_size, **extra}
    constants = {f"{name}{copy}": array for copy, arrays in enumerate(weights) for name, array in arrays.items()}
    nodes = [
        GraphNode(operator, ["A", f"codes{copy}", f"scales{copy}"], [f"Y{copy}"], attributes, domain)
        for copy in range(len(weights))
    ]
    outputs = {f"Y{copy}": ValueType("float32", (1, "S", layout.rows)) for copy in range(len(weights))}
    model = encode_model(nodes, {"A": ValueType("float32", (1, "S", layout.columns))}, outputs, constants)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=False)
    return session, sum(array.nbytes for array in weights[0].values())
