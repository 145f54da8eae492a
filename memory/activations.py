"""Bytes that are alive during a forward beside weights, cache and logits, by the rows that run at once.

With memory reuse on and the arena off, ONNX Runtime keeps one buffer for every shape of a graph's tensors through the
whole forward. So activations are a sum over shapes. Constants were measured on Linux x86-64 with ONNX Runtime 1.31.1;
``python -m memory verify`` compares predictions with measurements.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from export.manifest import ModelShape

_FLOAT = 4
# What the C library's heap takes for a byte that is alive: 1.02 to 1.40 measured with ONNX Runtime's own operators.
_PORTABLE_HEAP = 1.12
# ONNX Runtime's attention works on blocks of keys that fill a second-level processor cache of this size.
_CACHE_BYTES = 512 * 1024


def native_activations(shape: ModelShape, rows: int) -> int:
    """Bytes of the tensors of ``rows`` rows in a native graph: residual streams, q/k/v and the gated product.

    What tables give every layer is there twice, once projected. Experts have their input, normed, and their result.
    """
    hidden, queries, keys_values = shape.hidden_size, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    streams = 3 * hidden if queries == hidden else 2 * hidden + queries
    streams += 2 * hidden if shape.experts is not None else 0
    layer = streams + queries + 2 * keys_values + shape.mlp_size + 2 * shape.layer_inputs
    return _FLOAT * rows * (layer + _state_numbers(shape))


def _state_numbers(shape: ModelShape) -> int:
    """Numbers of a row in a layer with states: its first product, the convolution's rows, and what is made of them.

    Models with recurrences also gate what attention gives, which takes nine times its queries. Measured as the growth
    of a prompt's memory from 16 to 256 rows at once, with layers of the shapes of LFM2-1.2B (30,600 numbers a row in
    all, operators' scratch included) and Qwen3.5-0.8B (64,900). Granite 4 has no such gates, so its plan is too large.
    """
    convolutions, recurrences = shape.convolutions, shape.recurrences
    if convolutions is None:
        return 0
    if recurrences is None:  # three parts of a product, of which one lives on
        return 4 * convolutions.channels
    values = recurrences.heads * recurrences.value_size
    keys = recurrences.key_heads * recurrences.key_size
    product = convolutions.channels + values + 2 * recurrences.heads
    gated_attention = 9 * shape.heads * shape.head_size
    return product + 2 * convolutions.channels + 4 * values + 2 * keys + gated_attention


@dataclass(frozen=True)
class OperatorScratch:
    """Bytes that threads keep for the native operators: the one that calls them, and ``unit`` on each that works.

    The calling one has ``codes``, the int8 codes, scales and sums of a product's widest input, ``rotated`` queries,
    what ``experts`` need, and a ``unit`` of attention of its own.
    """

    codes: int = 0
    rotated: int = 0
    experts: int = 0
    unit: int = 0

    @property
    def of_caller(self) -> int:
        """Bytes of the thread that calls."""
        return self.codes + self.rotated + self.experts + self.unit

    def widest(self, other: OperatorScratch) -> OperatorScratch:
        """What a thread keeps that calls for both: each of its pieces grows to the largest request."""
        return OperatorScratch(*map(max, astuple(self), astuple(other)))


def native_scratch(shape: ModelShape, rows: int, keys: int, block: int) -> OperatorScratch:
    """What threads keep for ``rows`` rows over ``keys`` keys, with weights in blocks of ``block``.

    See matmul_op.cpp, attention_op.cpp and attention_rows.h in ``runtime/kernels/native``.
    """
    queries = shape.heads * shape.head_size
    widest = max(_up(size, block) for size in (shape.hidden_size, shape.mlp_size, queries))
    codes = rows * widest + 8 * rows * (widest // block)
    rotated = rows * (_FLOAT * queries + 32)
    # A unit is 24 to 48 queries of one KV head: as many as keep their scores within a megabyte.
    most = min(rows * (shape.heads // shape.kv_heads), min(max((1 << 20) // (_FLOAT * keys), 24), 48))
    scores = most * (_up(keys, 16) + 16)
    sums = most * _up(shape.head_size, 16) + 64 * shape.head_size + 32 * _up(shape.head_size, 16)
    return OperatorScratch(codes, rotated, _expert_scratch(shape, rows, block), _FLOAT * (scores + sums))


def _expert_scratch(shape: ModelShape, rows: int, block: int) -> int:
    """Bytes that Router and RoutedExperts keep: for every row and each of its experts, inputs and results of both
    products (router_op.cpp and experts_op.cpp).
    """
    experts = shape.experts
    if experts is None:
        return 0
    inputs = _up(shape.hidden_size, block) + _up(experts.mlp_size, block)
    use = _FLOAT * (shape.hidden_size + experts.mlp_size) + inputs + 8 * (inputs // block)
    return rows * experts.used * use + _FLOAT * (rows + 1) * experts.count


def portable_activations(
    shape: ModelShape, rows: int, keys: int, block: int | None, threads: int, kv_type: str = "fp32"
) -> int:
    """Bytes of the tensors with ONNX Runtime's operators: more of them, an attention bias, quantized inputs.

    Over a float16 cache its attention keeps the scores of all keys (0.8 of a float32 each, measured at 1,024 and 2,048
    keys). Over the other types it goes through the keys in blocks.
    """
    hidden, queries, keys_values = shape.hidden_size, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    streams = 4 * hidden if queries == hidden else 4 * hidden + 2 * queries
    tensors = _FLOAT * rows * (streams + 5 * shape.mlp_size + queries + 5 * keys_values + 2 * shape.layer_inputs)
    bias = _FLOAT * rows * keys
    keys_at_once = min(-(-_CACHE_BYTES // (32 * shape.head_size)), keys)
    queries_at_once = min(keys_at_once, 2 * shape.head_size, rows)
    attention = _FLOAT * rows * (queries + 2 * keys_values)
    attention += _FLOAT * threads * queries_at_once * (2 + keys_at_once + shape.head_size)
    if kv_type == "fp16":
        attention += int(0.8 * _FLOAT * rows * shape.heads * keys)
    codes = 0 if block is None else int(rows * max(_up(hidden, block), _up(shape.mlp_size, block)) * (1 + 8 / block))
    experts = 0
    if shape.experts is not None:  # the matrices of one expert as floats
        experts = _FLOAT * 3 * shape.experts.mlp_size * hidden + _FLOAT * rows * 4 * (hidden + shape.experts.mlp_size)
    return int((tensors + bias + max(attention, codes) + experts) * _PORTABLE_HEAP)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
