"""Bundles of other builders: a folder as onnxruntime-genai's model builder writes it, described as if it were ours.

What ``genai_config.json`` does not say is left at the cautious end: nothing is hashed, drafts are chains, and there are
no drafters beside the target. Such a bundle is used as it is found and never written to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.manifest import FILE_NAME, Level, Manifest, ManifestError, Quantization, Shape, Source, Vocabulary
from export.manifest import read_manifest as read_own_manifest

GENAI_FILE_NAME = "genai_config.json"

# The builder's default. It only enters the prediction of memory, where the smaller block is the more cautious guess.
_BLOCK_SIZE = 32


def read_bundle(bundle: Path) -> Manifest:
    """The manifest of ``bundle``, made up from ``genai_config.json`` where there is no ``pocketspec.json``."""
    if is_foreign(bundle):
        return _read_genai(bundle)
    return read_own_manifest(bundle)


def is_foreign(bundle: Path) -> bool:
    """Whether ``bundle`` was written by another builder."""
    return not (bundle / FILE_NAME).exists() and (bundle / GENAI_FILE_NAME).is_file()


def _read_genai(bundle: Path) -> Manifest:
    path = bundle / GENAI_FILE_NAME
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        decoder = model["decoder"]
        graph = bundle / decoder["filename"]
        level = Level(
            name=bundle.resolve().name,
            role="target",
            folder=".",
            architecture=str(model["type"]),
            source=Source(id=bundle.resolve().name),
            shape=_shape(bundle, model, decoder),
            vocabulary=_vocabulary(model),
            quantization=_quantization(graph),
            graphs={"fp32": decoder["filename"]},
            weight_bytes=sum(file.stat().st_size for file in graph.parent.glob(f"{graph.stem}.onnx*")),
            tree=False,
        )
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path} is not JSON ({error}); build the model again") from None
    except (KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} does not describe one decoder: {error} is missing; only text models in one graph can be opened"
        ) from None
    return Manifest(name=level.name, levels=(level,), files={})


def _shape(bundle: Path, model: dict[str, Any], decoder: dict[str, Any]) -> Shape:
    hidden = decoder["hidden_size"]
    return Shape(
        layers=decoder["num_hidden_layers"],
        hidden_size=hidden,
        mlp_size=_mlp_size(bundle, hidden),
        heads=decoder["num_attention_heads"],
        kv_heads=decoder["num_key_value_heads"],
        head_size=decoder["head_size"],
        vocab_size=model["vocab_size"],
        positions=model["context_length"],
    )


def _mlp_size(bundle: Path, hidden: int) -> int:
    """From the checkpoint's configuration if it is there; else four times the hidden size, a common ratio."""
    config = bundle / "config.json"
    if config.is_file():
        return int(json.loads(config.read_text(encoding="utf-8")).get("intermediate_size", 4 * hidden))
    return 4 * hidden


def _vocabulary(model: dict[str, Any]) -> Vocabulary:
    eos = model["eos_token_id"]
    return Vocabulary(
        entries=model["vocab_size"],
        sha256="",
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        bos_token_id=model.get("bos_token_id"),
    )


def _quantization(graph: Path) -> Quantization:
    """Whether the graph has block-quantized matrices; the weights themselves lie in another file."""
    if not graph.is_file():
        raise ManifestError(f"{graph} is missing; build the model again")
    if b"MatMulNBits" in graph.read_bytes():
        return Quantization("int4", block_size=_BLOCK_SIZE)
    return Quantization("fp32")
