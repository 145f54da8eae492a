"""A small bundle with a packing table, and the weights it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.bundle_files import sha256_of
from export.manifest import FileEntry, Level, Manifest, ModelShape, NativeForm, Quantization, Source, Vocabulary
from runtime.kernels.weights.layout import MatrixLayout
from runtime.kernels.weights.packing_table import TableBuilder, dump_table

MATRICES = {
    "plain": (MatrixLayout(37, 70, 4, 32), "fp16"),
    "gate_up": (MatrixLayout(20, 64, 4, 64, parts=2), "fp32"),
    "eight": (MatrixLayout(33, 130, 8, 128), "fp16"),
}
VECTOR = np.arange(50, dtype=np.float32)


def make_sources(seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Portable codes, scales and (not for all) zero points by matrix."""
    rng = np.random.default_rng(seed)
    sources = {}
    for name, (layout, _) in MATRICES.items():
        codes = rng.integers(0, 256, layout.portable_codes_shape, np.uint8)
        scales = rng.normal(size=layout.portable_scales_shape).astype(np.float16).astype(np.float32)
        zeros = rng.integers(0, 128, layout.portable_zero_points_shape, np.uint8)
        if layout.bits == 4 and layout.blocks % 2:
            zeros[:, -1] &= 15  # the spare half of the last byte
        sources[name] = [codes, scales] if name == "plain" else [codes, scales, zeros]
    return sources


def write_bundle(folder: Path, seed: int = 0) -> Manifest:
    """A bundle of one level with nothing in its graphs."""
    folder.mkdir(exist_ok=True)
    builder, data = TableBuilder(), b""
    for name, arrays in make_sources(seed).items():
        places = []
        for array in arrays:
            places.append(len(data))
            data += array.tobytes()
        layout, scale_type = MATRICES[name]
        builder.matrix(name, layout, scale_type, places[0], places[1], places[2] if len(places) == 3 else None)
    builder.vector("norm", len(data), VECTOR.nbytes)
    data += VECTOR.tobytes()
    table = builder.finish("model.onnx.data", len(data))
    (folder / "model.onnx.data").write_bytes(data)
    (folder / "native.json").write_text(dump_table(table))
    (folder / "native.onnx").write_bytes(b"graph")
    paths = [folder / name for name in ("model.onnx.data", "native.json", "native.onnx")]
    files = {path.name: FileEntry(path.stat().st_size, sha256_of(path)) for path in paths}
    level = Level(
        name="tiny",
        role="target",
        folder=".",
        architecture="llama",
        source=Source("tiny"),
        shape=ModelShape(1, 64, 64, 4, 2, 16, 64, 64),
        vocabulary=Vocabulary(64, "", ()),
        quantization=Quantization("int4", 32),
        graphs={"fp32": "model.onnx"},
        weight_bytes=len(data),
        native=NativeForm({"fp32": "native.onnx"}, "native.json", "native.data", table.size, 1),
    )
    return Manifest("tiny", (level,), files)
