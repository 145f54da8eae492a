"""CachedAttention as tests use it: one operator in a session, its cache in place, and the same in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from runtime.kernels.selftest.onnx_bytes import Attribute, GraphNode, ValueType, encode_model
from runtime.models.io_binding import KeptBinding

HIDDEN = np.float32(-1e30)
POSITIONS = 512

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """An attention layer. ``kind``: what its cache holds; ``rotary_dim`` 0 is all of a head, None no rotary at all."""

    heads: int = 4
    kv_heads: int = 2
    size: int = 32
    kind: str = "float32"
    rotary_dim: int | None = 0
    interleaved: bool = False
    gains: bool = False
    window: int = 0
    softcap: float = 0.0
    capacity: int = 128

    @property
    def scale(self) -> float:
        """What scores are multiplied by: nothing that a power of two would hide."""
        return 1.1 / math.sqrt(self.size)

    @property
    def row_width(self) -> int:
        """Elements of a cached row of one head."""
        return {"int8": self.size + 4, "int4": self.size // 2 + 4}.get(self.kind, self.size)

    @property
    def element(self) -> str:
        """The type of the cache's tensors."""
        return "uint8" if self.kind == "int4" else self.kind

    def constants(self) -> dict[str, Floats]:
        """Cosines, sines and gains, as far as there are any."""
        rng = np.random.default_rng(self.size)
        made: dict[str, Floats] = {}
        if self.rotary_dim is not None:
            half = (self.rotary_dim or self.size) // 2
            angles = np.arange(POSITIONS)[:, None] * 100.0 ** (-np.arange(half) / half)
            made |= {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
        if self.gains:
            made |= {name: rng.uniform(0.5, 2, self.size).astype(np.float32) for name in ("q_gain", "k_gain")}
        return made

    def rows(self, count: int, seed: int = 0) -> Floats:
        """Random rows of q, k and v, ``[count, (heads + 2 * kv_heads) * size]``."""
        rng = np.random.default_rng([seed, self.size, self.heads])
        return rng.standard_normal((count, (self.heads + 2 * self.kv_heads) * self.size)).astype(np.float32)

    def model(self, biased: bool = False, **changed: npt.NDArray[Any]) -> bytes:
        """One operator. Sizes are left open, or ONNX Runtime would refuse wrong ones before the operator does."""
        constants = {**self.constants(), **changed}
        cache = ValueType(self.element, (1, "KV", "C", "W"))
        given = {
            "qkv": ValueType("float32", ("B", "S", "N")),
            "past_key": cache,
            "past_value": cache,
            "position_ids": ValueType("int64", (1, "P")),
            "total": ValueType("int64", ("L",)),
        }
        if biased:
            given["tree_bias"] = ValueType("float32", (1, 1, "S2", "T"))
        optional = [
            name if name in constants or name in given else ""
            for name in ("cos", "sin", "tree_bias", "q_gain", "k_gain")
        ]
        inputs = ["qkv", "past_key", "past_value", "position_ids", "total", *optional]
        attributes: dict[str, Attribute] = {
            "num_heads": self.heads,
            "kv_num_heads": self.kv_heads,
            "scale": self.scale,
            "window": self.window,
            "softcap": self.softcap,
            "interleaved": int(self.interleaved),
            "rotary_dim": self.rotary_dim or 0,
            "epsilon": 1e-6,
        }
        node = GraphNode("CachedAttention", inputs, ["Y", "present_key", "present_value"], attributes)
        outputs = {"Y": ValueType("float32", (1, "S", "M")), "present_key": cache, "present_value": cache}
        return encode_model([node], given, outputs, constants)


def open_session(model: bytes, library: Path, threads: int) -> ort.InferenceSession:
    """A session for ``model`` that prints nothing."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("pocketspec.threads", str(threads))
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=False)


class Layer:
    """A session of one layer with its cache, which grows in place. ``threads`` is the size of its pool."""

    def __init__(self, library: Path, shape: Shape, threads: int = 1) -> None:
        self.shape = shape
        self._sessions = {biased: open_session(shape.model(biased), library, threads) for biased in (False, True)}
        self.clear()

    def clear(self) -> None:
        """Forgets everything; what the cache held stays there, as garbage."""
        if not hasattr(self, "keys"):
            size = (1, self.shape.kv_heads, self.shape.capacity, self.shape.row_width)
            self.keys, self.values = np.zeros(size, self.shape.element), np.zeros(size, self.shape.element)
        self.length = 0

    def step(self, rows: Floats, positions: Sequence[int] | None = None, bias: Floats | None = None) -> Floats:
        """Attention of ``rows`` ``[S, N]``, which stay in the cache; ``[S, heads * size]``."""
        total = self.length + len(rows)
        binding = KeptBinding(self._sessions[bias is not None])
        at = np.arange(self.length, total) if positions is None else np.asarray(positions)
        inputs = {"qkv": rows[None], "position_ids": at[None].astype(np.int64), "total": np.array([total])}
        if bias is not None:
            inputs["tree_bias"] = np.broadcast_to(bias, (1, 1, *bias.shape[-2:])).copy()
        for name, array in inputs.items():
            binding.bind_input(name, array)
        for name, array in (("key", self.keys), ("value", self.values)):
            binding.bind_input(f"past_{name}", array)
            binding.bind_output(f"present_{name}", array)
        y = np.full((1, len(rows), self.shape.heads * self.shape.size), np.nan, np.float32)
        binding.bind_output("Y", y)
        self._sessions[bias is not None].run_with_iobinding(binding.io)
        self.length = total
        return y.reshape(y.shape[1:])

    def stored(self) -> tuple[Doubles, Doubles]:
        """Keys and values of all rows held, as they are read: ``[kv_heads, length, size]``."""
        held = (array[0, :, : self.length] for array in (self.keys, self.values))
        keys, values = (_widened(rows, self.shape.kind) for rows in held)
        return keys, values


def _widened(rows: npt.NDArray[Any], kind: str) -> Doubles:
    """The stored rows as float64. Those of four bits are mixed back, by the whole matrix and not as the kernel does."""
    if kind == "int8":
        scales = np.ascontiguousarray(rows[..., -4:]).view(np.float32)
        return rows[..., :-4].astype(np.float64) * scales
    if kind != "int4":
        return rows.astype(np.float64)
    upper = np.ascontiguousarray(rows[..., -4:]).view(np.uint16).astype(np.uint32) << 16
    low, high = np.moveaxis(upper.view(np.float32).astype(np.float64)[..., None], -2, 0)
    halves = (rows[..., :-4] & 15).astype(np.float64) - 8, (rows[..., :-4] >> 4).astype(np.float64) - 8
    return np.concatenate([halves[0] * low, halves[1] * high], -1) @ mixing(2 * halves[0].shape[-1], inverse=True)


def mixing(size: int, inverse: bool = False) -> Doubles:
    """The symmetric matrix that mixes a head, ``[size, size]``: Hadamard's in blocks, as large as ``size`` allows."""
    together = size & -size
    matrix = np.ones((1, 1))
    while len(matrix) < together:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.kron(np.eye(size // together), matrix / together if inverse else matrix)


def prepared(shape: Shape, heads: Floats, positions: Sequence[int], gain: Floats | None) -> Doubles:
    """Norm and rotary in float64 of heads ``[S, n, size]``."""
    x = heads.astype(np.float64)
    constants = shape.constants()
    if gain is not None:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain
    if shape.rotary_dim is None:
        return x
    cos, sin = (constants[name][list(positions)].astype(np.float64)[:, None] for name in ("cos", "sin"))
    half = cos.shape[-1]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if shape.interleaved else (slice(half), slice(half, 2 * half))
    )
    a, b = x[..., first].copy(), x[..., second].copy()
    x[..., first], x[..., second] = a * cos - b * sin, b * cos + a * sin
    return x


def expected(
    layer: Layer, rows: Floats, positions: Sequence[int], bias: Floats | None = None
) -> tuple[Doubles, Doubles]:
    """What a step that has just run should have given, ``[S, heads * size]``, and its keys ``[kv_heads, S, size]``.

    Attends to the keys and values that are stored, so that their rounding is no error of attention.
    """
    shape, count = layer.shape, len(rows)
    past, group = layer.length - count, shape.heads // shape.kv_heads
    split = rows.reshape(count, -1, shape.size)
    gains = {name: array for name, array in shape.constants().items() if name.endswith("gain")}
    queries = prepared(shape, split[:, : shape.heads], positions, gains.get("q_gain"))
    new_keys = prepared(shape, split[:, shape.heads : -shape.kv_heads], positions, gains.get("k_gain"))
    keys, values = layer.stored()
    places = np.concatenate([np.arange(past), positions])
    added = np.zeros((count, layer.length)) if bias is None else np.broadcast_to(bias, (count, layer.length))
    y = np.zeros((count, shape.heads, shape.size))
    for row in range(count):
        seen = (np.arange(layer.length) <= past + row) & ~(added[row] <= -1e29)
        if shape.window:
            seen &= places > positions[row] - shape.window
        if not seen.any():
            continue
        for head in range(shape.heads):
            scores = keys[head // group][seen] @ queries[row, head] * shape.scale
            if shape.softcap:
                scores = shape.softcap * np.tanh(scores / shape.softcap)
            scores += added[row][seen]
            weights = np.exp(scores - scores.max())
            y[row, head] = weights @ values[head // group][seen] / weights.sum()
    return y.reshape(count, -1), new_keys.transpose(1, 0, 2)


def same_bits(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> bool:
    """Whether all bits agree; every NaN is as good as another."""
    if found.itemsize == 1:
        return np.array_equal(found, wanted)
    unsigned = {2: np.uint16, 4: np.uint32}[found.itemsize]
    same = (found.view(unsigned) == wanted.view(unsigned)) | (np.isnan(found) & np.isnan(wanted))
    return found.shape == wanted.shape and bool(same.all())
