"""Writes the decoders that the app runs before it measures its process: ``python -m tests.android_demo.first_session``.

They are exports of a random Llama of two layers, for either kind of kernels, with their weights inside.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import onnx_ir as ir

from android_demo.check.places import ENGINE
from export.bundle import export_bundle
from export.manifest import read_manifest
from export.request import ExportRequest
from memory.process import KernelKind
from runtime.kernels.weights.packed import packed_graphs

FOLDER = ENGINE / "main" / "resources" / "dev" / "pocketspec" / "models"
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
}


def name_of(kernels: KernelKind) -> str:
    """The file of one kind, as ``FirstSession.kt`` names it."""
    return f"first-session-{kernels}.onnx"


def write(folder: Path) -> None:
    """Writes both."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        shape = Path(scratch) / "shape"
        shape.mkdir()
        (shape / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
        request = ExportRequest(str(shape), Path(scratch) / "bundle", drafters=(), random_weights=True, weights="int4")
        bundle = export_bundle(request)
        manifest = read_manifest(bundle)
        assert manifest.target.native is not None
        packed = packed_graphs(bundle, manifest, manifest.target) / manifest.target.native.graphs["fp32"]
        graphs: dict[KernelKind, Path] = {"portable": bundle / manifest.target.graphs["fp32"], "native": packed}
        for kernels, graph in graphs.items():
            model = ir.load(graph)
            ir.save(ir.external_data.load_to_model(model), folder / name_of(kernels))


def main() -> int:
    """Writes them to where the engine has them."""
    write(FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
