"""Reads bundles of other builders: a folder written by onnxruntime-genai's model builder, described like one of ours.

What ``genai_config.json`` does not say is assumed cautiously: files are not hashed, drafts are chains, and there are no
drafters beside the target. Such a bundle is never written to.
"""

from __future__ import annotations

import glob
import mmap
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.manifest import (
    FILE_NAME,
    TEXT_FILES,
    Level,
    Manifest,
    ManifestError,
    Quantization,
    refuse_links,
)
from export.manifest import read_manifest as read_own_manifest
from export.records import build_record
from export.untrusted import MOST_JSON, UntrustedError, parse_json, read_bytes
from runtime.bundle.device_cache import check_files
from runtime.bundle.external_data import check_locations

GENAI_FILE_NAME = "genai_config.json"

# The builder's default. It is only used to predict memory, where the smaller block is the more cautious guess.
_BLOCK_SIZE = 32


def read_bundle(bundle: Path) -> Manifest:
    """The manifest of ``bundle``; without ``pocketspec.json``, one made from ``genai_config.json``."""
    if is_foreign(bundle):
        return _read_genai(bundle)
    return read_own_manifest(bundle)


def is_foreign(bundle: Path) -> bool:
    """Whether ``bundle`` was written by another builder."""
    return not os.path.lexists(bundle / FILE_NAME) and os.path.isfile(bundle / GENAI_FILE_NAME)


def check_bundle(bundle: Path, manifest: Manifest, verify: bool = False) -> None:
    """ManifestError if a file of the bundle is not the exported one, or refers to files outside the bundle.

    See ``check_files``. The files of other builders have no hashes to check.
    """
    if not is_foreign(bundle):
        check_files(bundle, manifest, verify)
        return
    for graph in manifest.target.graphs.values():
        check_locations(bundle, bundle / graph)


def _read_genai(bundle: Path) -> Manifest:
    path = bundle / GENAI_FILE_NAME
    refuse_links(bundle, TEXT_FILES)
    try:
        model = _read_object(path)["model"]
        level = _level(bundle, model, model["decoder"])
    except (KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} does not describe one decoder: {error} is missing; only text models in one graph can be opened"
        ) from None
    return Manifest(name=level.name, levels=(level,), files={})


def _level(bundle: Path, model: dict[str, Any], decoder: dict[str, Any]) -> Level:
    """The only level; ManifestError if a field that should be a plain name is not, or if a number is out of bounds."""
    eos, name = model["eos_token_id"], bundle.resolve().name
    fields = {
        "graphs": {"fp32": decoder["filename"]},
        "name": name,
        "role": "target",
        "folder": ".",
        "architecture": model["type"],
        "source": {"id": name},
        "shape": _shape(bundle, model, decoder),
        "vocabulary": {
            "entries": model["vocab_size"],
            "sha256": "",
            "eos_token_ids": eos if isinstance(eos, list) else [eos],
            "bos_token_id": model.get("bos_token_id"),
        },
        "quantization": {"weights": "fp32"},
        "weight_bytes": 0,
        "tree": False,
    }
    try:
        level: Level = build_record(Level, fields, str(bundle / GENAI_FILE_NAME))
    except UntrustedError as error:
        raise ManifestError(str(error)) from None
    if level.shape.heads % level.shape.kv_heads:
        raise ManifestError(f"{bundle / GENAI_FILE_NAME} has heads that its KV heads do not divide; build it again")
    graph = bundle / level.graphs["fp32"]
    refuse_links(bundle, [graph.name])
    files = graph.parent.glob(f"{glob.escape(graph.stem)}.onnx*")
    return replace(
        level,
        quantization=_quantization(graph),
        weight_bytes=sum(file.stat().st_size for file in files if file.is_file()),
    )


def _shape(bundle: Path, model: dict[str, Any], decoder: dict[str, Any]) -> dict[str, Any]:
    hidden = decoder["hidden_size"]
    return {
        "layers": decoder["num_hidden_layers"],
        "hidden_size": hidden,
        "mlp_size": _mlp_size(bundle, hidden),
        "heads": decoder["num_attention_heads"],
        "kv_heads": decoder["num_key_value_heads"],
        "head_size": decoder["head_size"],
        "vocab_size": model["vocab_size"],
        "positions": model["context_length"],
    }


def _mlp_size(bundle: Path, hidden: Any) -> Any:
    """The MLP size in the checkpoint's configuration; without one, four times the hidden size, a usual ratio."""
    config, common = bundle / "config.json", 4 * hidden if isinstance(hidden, int) else hidden
    return _read_object(config).get("intermediate_size", common) if config.is_file() else common


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(read_bytes(path, MOST_JSON))
    except (UntrustedError, FileNotFoundError) as error:
        raise ManifestError(f"{path} {error}; build the model again") from None
    if not isinstance(data, dict):
        raise ManifestError(f"{path} is no JSON object; build the model again")
    return data


def _quantization(graph: Path) -> Quantization:
    """Whether the graph has block-quantized matrices; the weights are in another file."""
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            is_quantized = data.find(b"MatMulNBits") >= 0
    except FileNotFoundError:
        raise ManifestError(f"{graph} is missing; build the model again") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{graph} cannot be read ({error}); build the model again") from None
    return Quantization("int4", block_size=_BLOCK_SIZE) if is_quantized else Quantization("fp32")
