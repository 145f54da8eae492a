"""Bundles of another builder: described from their configuration, or refused with what it lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from export.manifest import FILE_NAME, ManifestError, read_manifest
from runtime.bundle.foreign import is_foreign, read_bundle


def changed(bundle: Path, folder: Path, **changes: Any) -> Path:
    copy = shutil.copytree(bundle, folder / "copy")
    config = json.loads((copy / "genai_config.json").read_text())
    config["model"].update(changes)
    (copy / "genai_config.json").write_text(json.dumps(config))
    return copy


def test_the_configuration_becomes_a_manifest(foreign_bundle: Path) -> None:
    manifest = read_bundle(foreign_bundle)
    target = manifest.target
    assert (target.name, target.architecture, target.tree) == ("foreign", "llama", False)
    assert (target.shape.layers, target.shape.kv_heads, target.shape.positions) == (2, 2, 512)
    assert target.vocabulary.eos_token_ids == (95,)
    assert target.weight_bytes == (foreign_bundle / "model.onnx").stat().st_size
    assert (manifest.drafters(), manifest.files) == ((), {})


def test_several_end_tokens_are_kept(foreign_bundle: Path, tmp_path: Path) -> None:
    bundle = changed(foreign_bundle, tmp_path, eos_token_id=[3, 95])
    assert read_bundle(bundle).target.vocabulary.eos_token_ids == (3, 95)


def test_an_own_manifest_comes_first(random_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(random_bundle, tmp_path / "copy")
    (copy / "genai_config.json").write_text("{}")
    assert not is_foreign(copy)
    assert read_bundle(copy) == read_manifest(copy)


def test_what_is_no_text_model_is_refused(foreign_bundle: Path, tmp_path: Path) -> None:
    bundle = changed(foreign_bundle, tmp_path, decoder={"pipeline": []})
    with pytest.raises(ManifestError, match="does not describe one decoder: 'filename' is missing"):
        read_bundle(bundle)
    (bundle / "genai_config.json").write_text("{")
    with pytest.raises(ManifestError, match=r"genai_config\.json is not JSON"):
        read_bundle(bundle)


def test_a_missing_graph_is_refused(foreign_bundle: Path, tmp_path: Path) -> None:
    bundle = changed(foreign_bundle, tmp_path)
    (bundle / "model.onnx").unlink()
    with pytest.raises(ManifestError, match=r"model\.onnx is missing; build the model again"):
        read_bundle(bundle)


def test_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=f"no {FILE_NAME} in"):
        read_bundle(tmp_path)
