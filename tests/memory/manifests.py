"""Manifests of bundles that nobody has to export: plans look at nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from export.manifest import (
    FileEntry,
    KvEffect,
    Level,
    Manifest,
    ModelShape,
    NativeForm,
    Quantization,
    Role,
    Source,
    Vocabulary,
)

QWEN = ModelShape(28, 1536, 8960, 12, 2, 128, 151_936, 32_768)
MIDDLE = ModelShape(24, 896, 4864, 14, 2, 64, 151_936, 32_768)
SMALL = ModelShape(2, 64, 128, 4, 2, 16, 151_936, 2048)
KV_TYPES = ("fp32", "fp16", "int8", "int4")


def make_level(
    name: str,
    role: Role,
    shape: ModelShape,
    weight_bytes: int,
    kv_types: Sequence[str] = KV_TYPES,
    agreement: float | None = None,
) -> Level:
    """A level in int4 with a native form."""
    graphs = {kind: f"native-{kind}.onnx" for kind in kv_types}
    effects = {
        kind: KvEffect(speed, 1024, "native", 1.01) for kind, speed in (("fp16", 0.98), ("int8", 1.1), ("int4", 0.9))
    }
    return Level(
        name=name,
        role=role,
        folder="." if role == "target" else f"levels/{name}",
        architecture="llama",
        source=Source("made/here"),
        shape=shape,
        vocabulary=Vocabulary(300, "0" * 64, (2,)),
        quantization=Quantization("int4", 128, "search"),
        graphs=graphs,
        weight_bytes=weight_bytes,
        native=NativeForm(graphs, "native.json", "native.data", int(weight_bytes * 0.97), 1),
        kv_effects={kind: effect for kind, effect in effects.items() if kind in kv_types},
        agreement=agreement,
    )


TARGET = make_level("big", "target", QWEN, 837_494_784)
PAIR = Manifest(
    "pair",
    (TARGET, make_level("small", "drafter", SMALL, 10_000_000, agreement=0.8)),
    {"tokenizer.json": FileEntry(11_422_166, "0" * 64)},
)
STACK = Manifest(
    "stack",
    (
        TARGET,
        make_level("middle", "intermediate", MIDDLE, 280_000_000, agreement=0.9),
        make_level("small", "drafter", SMALL, 10_000_000, agreement=0.7),
        make_level("smaller", "drafter", replace(SMALL, layers=1), 5_000_000, agreement=0.6),
    ),
    PAIR.files,
)
