"""Writes a pair, in a process of its own: a session that copies the weights takes more memory than an engine may.

``python -m runtime.models.prepacker GRAPH FOLDER KV_HEADS HEAD_SIZE WIDTH`` writes ``model.onnx`` and its data into
FOLDER, opens both forms, and prints one JSON object, ``{"fault": TEXT}``, with null if nothing is wrong. Its memory,
heap and mappings, ends with the process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Set before ONNX Runtime is imported, which would send telemetry otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from runtime.bundle.external_data import external_tensors
from runtime.bundle.protobuf import replace_content
from runtime.kernels.session_options import PROVIDERS, session_options
from runtime.kernels.weights.prepacking import DATA, GRAPH
from runtime.models.exact_widths import any_width
from runtime.models.layer_states import StateSizes
from runtime.models.ort_model import OrtModel
from runtime.process.allocator import give_back

_WIDTHS = (3, 1)  # kernels may compute one row differently


def write_pair(graph: Path, folder: Path, kv_shape: tuple[int, int], width: int = 0) -> str | None:
    """Writes the pair of ``graph`` into ``folder`` and tests it; returns the fault, None if there is none.

    ``kv_shape``: KV heads and their size. ``width``: rows that its convolutions see, 0 if it has none.
    """
    try:
        expected = _results(graph, _saving_options(folder, kv_shape), kv_shape, width)
        read_once(folder / GRAPH, folder / DATA)
        seen = _results(folder / GRAPH, session_options(None), kv_shape, width)
    except Exception as error:  # ONNX Runtime's errors share no other base
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        return f"cannot pack the weights of {graph}: {reason}"
    if not all(map(np.array_equal, seen, expected)):
        return f"packs the weights of {graph} so that its results change"
    return None


def read_once(graph: Path, data: Path) -> None:
    """If ``data`` ends with a second copy of a tensor, makes ``graph`` read the first copy, and cuts off the second.

    ONNX Runtime writes the codes of an embedding that is also the head twice, the second time reshaped: 117 MB of 1.82
    GB at the Qwen2-1.5B shape.
    """
    text = graph.read_bytes()
    tensors = sorted(external_tensors(text), key=lambda tensor: tensor.offset)
    if not tensors or (last := tensors.pop()).offset + last.length != data.stat().st_size:
        return
    values = np.memmap(data, np.uint8, "r")
    same = [
        tensor.offset
        for tensor in tensors
        if tensor.length == last.length
        and np.array_equal(values[tensor.offset : tensor.offset + last.length], values[last.offset :])
    ]
    del values
    if same and last.offset not in same:
        graph.write_bytes(replace_content(text, last.offset_path, b"%d" % same[0]))
        os.truncate(data, last.offset)


def _saving_options(folder: Path, kv_shape: tuple[int, int]) -> ort.SessionOptions:
    options = session_options(None)
    options.optimized_model_filepath = str(folder / GRAPH)
    kv_heads, head_size = kv_shape
    for name, value in {
        "optimized_model_external_initializers_file_name": DATA,
        # Scales of a KV cache, at most a float32 for every channel, stay in the graph. So graphs of one level for
        # several KV types have the same data file.
        "optimized_model_external_initializers_min_size_in_bytes": str(4 * kv_heads * head_size + 1),
        "save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(f"session.{name}", value)
    return options


def _results(graph: Path, options: ort.SessionOptions, kv_shape: tuple[int, int], width: int) -> list[npt.NDArray[Any]]:
    """Logits and cache of a few rows at several widths, from a session that is then closed."""
    rows, most = sum(_WIDTHS), max(_WIDTHS)
    session = ort.InferenceSession(graph, options, providers=PROVIDERS)
    states = StateSizes(width, most) if width else None
    model = OrtModel(session, rows, most, most, any_width(most), kv_shape, states=states)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, rows).tolist()
    results = [model.forward([tokens.pop() for _ in range(width)]).logits.copy() for width in _WIDTHS]
    results += [array.copy() for array in model.cache.arrays]
    del session, model
    give_back()
    return results


def main(arguments: Sequence[str]) -> int:
    """Writes the pair and prints the fault."""
    graph, folder, *sizes = arguments
    kv_heads, head_size, width = map(int, sizes)
    print(json.dumps({"fault": write_pair(Path(graph), Path(folder), (kv_heads, head_size), width)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
