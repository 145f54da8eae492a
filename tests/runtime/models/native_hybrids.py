"""The hybrid graph with the native operators, in sessions of any instruction set and number of threads."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from runtime.kernels.library import open_library
from runtime.kernels.session_options import session_options
from tests.runtime.models.hybrid_graph import hybrid_graph


def open_native(folder: Path, delta: bool, threads: int = 1) -> ort.InferenceSession:
    """A session over the graph without definitions of its operators."""
    path = folder / f"native-{delta}.onnx"
    if not path.is_file():
        ir.save(hybrid_graph(delta), path)
    options = session_options(threads)
    open_library().register(options, threads)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
