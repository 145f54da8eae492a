"""A decoder small enough to read: two layers with in-place KV, written as ONNX text.

It follows the graph contract of the runtime. ``bits=4`` stores its matrices in int4, as exports do. The foreign flavour
has neither tree_bias nor logits_from, and no position_ids: attention rotates, as other builders have it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

HIDDEN, HEADS, KV_HEADS, SIZE, MLP, VOCAB, POSITIONS = 64, 4, 2, 16, 128, 96, 512

_TEXT_TYPES = {np.dtype(np.float32): "float", np.dtype(np.int64): "int64", np.dtype(np.uint8): "uint8"}

_LAYER = """
  n{i} = SimplifiedLayerNormalization <axis=-1, epsilon=0.00001> (h{i}, ones)
  {qkv}
  q{i}, k{i}, v{i} = Split <axis=-1> (qkv{i}, split)
  {attention}
  {o}
  m{i} = Add(h{i}, o{i})
  mn{i} = SimplifiedLayerNormalization <axis=-1, epsilon=0.00001> (m{i}, ones)
  {up}
  s{i} = Sigmoid(up{i})
  a{i} = Mul(up{i}, s{i})
  {down}
  h{j} = Add(m{i}, down{i})
"""

_ROTARY = """qr{i} = com.microsoft.RotaryEmbedding <num_heads={heads}> (q{i}, position_ids, cos, sin)
  kr{i} = com.microsoft.RotaryEmbedding <num_heads={kv}> (k{i}, position_ids, cos, sin)
  c{i}, present_{i}_key, present_{i}_value = com.microsoft.GroupQueryAttention <num_heads={heads}, kv_num_heads={kv}>
    (qr{i}, kr{i}, v{i}, past_{i}_key, past_{i}_value, seqlens, total, , , , bias)"""

_FOREIGN = """c{i}, present_{i}_key, present_{i}_value = com.microsoft.GroupQueryAttention
    <num_heads={heads}, kv_num_heads={kv}, do_rotary=1>
    (q{i}, k{i}, v{i}, past_{i}_key, past_{i}_value, seqlens, total, cos, sin)"""

_BEFORE = """
  mask_shape = Shape(attention_mask)
  total64 = Gather <axis=0> (mask_shape, one)
  total = Cast <to=6> (total64)
  seqlens64 = Sub(total64, one)
  seqlens32 = Cast <to=6> (seqlens64)
  seqlens = Reshape(seqlens32, batch)
  h0 = Gather(embedding, input_ids)
"""

_BIAS = """
  ids_shape = Shape(input_ids)
  rows = Gather <axis=0> (ids_shape, one_d)
  total_d = Reshape(total64, one_d)
  bias_shape = Concat <axis=0> (one_d, one_d, rows, total_d)
  bias = Expand(tree_bias, bias_shape)
"""


def write_tiny_graph(
    path: Path, *, bits: int = 32, foreign: bool = False, kv: str = "float", seed: int = 0, layers: int = 2
) -> Path:
    """Writes the graph with random weights to ``path``; the same seed gives the same model in every flavour."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    body = _BEFORE + ("" if foreign else _BIAS)
    for i in range(layers):
        matrices = {
            name: _matmul(weights, rng, f"{name}{i}", source, rows, columns, bits)
            for name, source, rows, columns in (
                ("qkv", f"n{i}", (HEADS + 2 * KV_HEADS) * SIZE, HIDDEN),
                ("o", f"c{i}", HIDDEN, HEADS * SIZE),
                ("up", f"mn{i}", MLP, HIDDEN),
                ("down", f"a{i}", HIDDEN, MLP),
            )
        }
        attention = (_FOREIGN if foreign else _ROTARY).format(i=i, heads=HEADS, kv=KV_HEADS)
        body += _LAYER.format(i=i, j=i + 1, attention=attention, **matrices)
    last = f"last = SimplifiedLayerNormalization <axis=-1, epsilon=0.00001> (h{layers}, ones)\n"
    if not foreign:
        last += "  kept = Slice(last, logits_from, end, one_d)\n"
    body += "  " + last + "  " + _matmul(weights, rng, "logits", "last" if foreign else "kept", VOCAB, HIDDEN, bits)
    body = body.replace("logits0", "logits")
    weights["embedding"] = rng.standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    weights.update(_constants())
    _save(path, body, weights, [f"past_{i}_{part}" for i in range(layers) for part in ("key", "value")], kv, foreign)
    return path


def _matmul(weights, rng, name, source, rows, columns, bits) -> str:
    """The line that multiplies ``source`` by a random matrix [rows, columns], whose data goes to ``weights``."""
    matrix = (rng.standard_normal((rows, columns)) * 2 / np.sqrt(columns)).astype(np.float32)
    if bits == 32:
        weights[name + "_w"] = np.ascontiguousarray(matrix.T)
        return f"{name} = MatMul({source}, {name}_w)"
    blocks = matrix.reshape(rows, columns // 32, 32)
    scales = np.abs(blocks).max(-1) / 7
    codes = np.clip(np.round(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8)
    weights[name + "_w"] = codes[..., 0::2] | (codes[..., 1::2] << 4)
    weights[name + "_s"] = scales.astype(np.float32)
    options = f"K={columns}, N={rows}, bits=4, block_size=32, accuracy_level=4"
    return f"{name} = com.microsoft.MatMulNBits <{options}> ({source}, {name}_w, {name}_s)"


def _constants() -> dict[str, np.ndarray]:
    angles = np.outer(np.arange(POSITIONS), 1e4 ** -(np.arange(0, SIZE, 2) / SIZE)).astype(np.float32)
    return {
        "ones": np.ones(HIDDEN, np.float32),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
        "one": np.array(1, np.int64),
        "one_d": np.array([1], np.int64),
        "end": np.array([2**31], np.int64),
        "batch": np.array([1, 1], np.int64),
        "split": np.array([HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE], np.int64),
    }


def _save(path: Path, body: str, weights: dict[str, np.ndarray], caches: list[str], kv: str, foreign: bool) -> None:
    kind = f"{kv}[1,{KV_HEADS},capacity,{SIZE}]"
    inputs = ["int64[1,S] input_ids", "int64[1,T] attention_mask"]
    inputs += [] if foreign else ["int64[1,S] position_ids", "float[1,1,A,B] tree_bias", "int64[1] logits_from"]
    inputs += [f"{kind} {name}" for name in caches]
    inputs += [
        f"{_TEXT_TYPES[array.dtype]}[{','.join(map(str, array.shape))}] {name}" for name, array in weights.items()
    ]
    outputs = [f"float[1,R,{VOCAB}] logits", *(f"{kind} {name.replace('past', 'present')}" for name in caches)]
    text = f"""<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
tiny ({", ".join(inputs)}) => ({", ".join(outputs)}) {{{body}
}}"""
    graph = ir.from_onnx_text(text).graph
    values = {value.name: value for value in graph.inputs}
    for name, array in weights.items():
        _make_initializer(graph, values[name], array)
        graph.inputs.remove(values[name])
    if not foreign:
        _make_initializer(graph, values["tree_bias"], np.zeros((1, 1, 1, 1), np.float32))
        _make_initializer(graph, values["logits_from"], np.zeros(1, np.int64))
    for value in [*graph.inputs, *graph.outputs]:
        if value.name.startswith(("past_", "present_")):
            prefix, layer, part = value.name.split("_")
            value.name = f"{'past_key_values' if prefix == 'past' else prefix}.{layer}.{part}"
    ir.save(ir.Model(graph, ir_version=10), path)


def _make_initializer(graph: ir.Graph, value: ir.Value, array: np.ndarray) -> None:
    """Gives ``value`` its data. An input that has some is optional."""
    value.const_value = ir.tensor(array, name=value.name)
    graph.register_initializer(value)
