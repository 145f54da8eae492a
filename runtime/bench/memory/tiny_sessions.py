"""Models of a few nodes with the operators of either kind of kernels, to measure what running any model takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from memory.cores import read_cores
from memory.process import KernelKind
from runtime.kernels.library import open_library
from runtime.kernels.selftest.cases import cases
from runtime.kernels.selftest.onnx_bytes import GraphNode, ValueType, encode_model
from runtime.kernels.session_options import PROVIDERS, session_options

_ROWS, _HEADS, _SIZE, _CAPACITY = 5, 2, 32, 8
_WIDTH = _HEADS * _SIZE
_BLOCK = 32


def prepare(kernels: KernelKind) -> Callable[[], None]:
    """A function that opens sessions and runs them; everything else that they need is loaded before."""
    return _native() if kernels == "native" else _portable()


def _native() -> Callable[[], None]:
    """One case of the self-test for each operator."""
    library, wanted = open_library(), {case.operator: case for case in cases()}

    def run() -> None:
        for case in wanted.values():
            options = session_options(None)
            library.register(options, read_cores().usable)
            session = ort.InferenceSession(case.model(), options, providers=PROVIDERS, enable_fallback=False)
            for trial in case.trials:
                session.run(None, dict(trial.given))

    return run


def _portable() -> Callable[[], None]:
    """Attention over the output of an int4 product, as in exported graphs."""
    given = _given()
    model = _portable_model({name: ValueType(array.dtype.name, array.shape) for name, array in given.items()})

    def run() -> None:
        session = ort.InferenceSession(model, session_options(None), providers=PROVIDERS, enable_fallback=False)
        session.run(None, given)

    return run


def _given() -> dict[str, np.ndarray]:
    cache = np.zeros((1, _HEADS, _CAPACITY, _SIZE), np.float32)
    return {
        "x": np.sin(np.arange(_ROWS * _WIDTH, dtype=np.float32)).reshape(1, _ROWS, _WIDTH),
        "past_key": cache,
        "past_value": cache.copy(),
        "last": np.array([_ROWS - 1], np.int32),
        "total": np.array([_ROWS], np.int32),
    }


def _portable_model(given: dict[str, ValueType]) -> bytes:
    # Not NumPy's generators: no conversation loads those libraries.
    shape = (_WIDTH, _WIDTH // _BLOCK, _BLOCK // 2)
    codes = np.arange(math.prod(shape)) * 97 % 256
    weights = {"codes": codes.astype(np.uint8).reshape(shape), "scales": np.full(shape[:2], 0.5, np.float32)}
    product = {"K": _WIDTH, "N": _WIDTH, "bits": 4, "block_size": _BLOCK, "accuracy_level": 4}
    heads = {"num_heads": _HEADS, "kv_num_heads": _HEADS}
    nodes = [
        GraphNode("MatMulNBits", ("x", "codes", "scales"), ("q",), product, "com.microsoft"),
        GraphNode(
            "GroupQueryAttention",
            ("q", "q", "q", "past_key", "past_value", "last", "total"),
            ("y", "present_key", "present_value"),
            heads,
            "com.microsoft",
        ),
    ]
    return encode_model(nodes, given, {"y": given["x"]}, weights)
