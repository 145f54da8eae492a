"""What an export with each choice of kernels leaves in the bundle, and that the runtime takes it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.__main__ import main
from export.bundle_files import verify_files
from export.manifest import parse_manifest, read_manifest
from export.request import ExportRequest, RequestError, make_jobs
from runtime.kernels.weights import packing
from runtime.kernels.weights.packed import packed_graphs
from tests.conftest import TinyModels

FILES = {"native.onnx", "native-fp16.onnx", "native-int8.onnx", "native-int4.onnx", "native.json"}


def native_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("native*")}


def test_every_level_has_its_native_graphs_and_no_packed_weights(tiny_bundle_int4: Path) -> None:
    manifest = read_manifest(tiny_bundle_int4)
    for level in manifest.levels:
        assert level.native is not None
        assert dict(level.native.graphs) == {
            "fp32": "native.onnx",
            "fp16": "native-fp16.onnx",
            "int8": "native-int8.onnx",
            "int4": "native-int4.onnx",
        }
        assert {(Path(level.folder) / name).as_posix() for name in FILES} <= set(manifest.files)
        assert not any(name.endswith("native.data") for name in manifest.files)


def test_float_weights_have_no_native_graphs(tiny_bundle: Path) -> None:
    assert [level.native for level in read_manifest(tiny_bundle).levels] == [None, None]
    assert native_files(tiny_bundle) == set()


@pytest.mark.usefixtures("lowered_once")
def test_native_kernels_bring_their_packed_weights(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bundle"
    words = [
        "--target",
        tiny_models.target,
        "--drafter",
        tiny_models.drafter,
        "--output",
        output,
        "--kernels",
        "native",
    ]
    assert main([str(word) for word in words]) == 0
    manifest = read_manifest(output)
    verify_files(output, manifest)
    monkeypatch.setattr(packing, "_pieces", None)  # nothing is packed again
    for level in manifest.levels:
        assert level.native is not None
        folder = output / level.folder
        assert native_files(folder) == FILES | {"native.data"}
        assert (folder / "native.data").stat().st_size == level.native.data_bytes
        assert packed_graphs(output, manifest, level) == folder
    # without them the bundle is as complete as before
    (output / "native.data").unlink()
    verify_files(output, manifest)
    assert main([str(word) for word in words]) == 0


@pytest.mark.usefixtures("lowered_once")
def test_portable_kernels_bring_nothing(tiny_models: TinyModels, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    words = ["--target", tiny_models.target, "--drafter", "none", "--output", output, "--kernels", "portable"]
    assert main([str(word) for word in words]) == 0
    assert read_manifest(output).target.native is None
    assert native_files(output) == set()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"int4_drafter": True}, "--int4-drafter is half of an int8 target, not of int4; add --quant int8"),
        (
            {"int4_drafter": True, "weights": "int8", "kernels": "portable"},
            "--int4-drafter runs with native kernels alone; drop --kernels portable",
        ),
        (
            {"int4_drafter": True, "weights": "int8", "block_size": 256, "kernels": "auto"},
            "--int4-drafter needs blocks of 32, 64, 128, not 256; drop one of them",
        ),
        ({"weights": "fp16"}, "--kernels native needs int4 or int8 weights, not fp16; use --kernels auto"),
        ({"block_size": 256}, "--kernels native needs blocks of 32, 64, 128, not 256; use --kernels auto"),
    ],
)
def test_native_kernels_need_weights_they_can_run(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        make_jobs(ExportRequest("qwen2-1.5b", tmp_path, **{"kernels": "native", **fields}))  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_old_manifests_are_read(tiny_bundle_int4: Path) -> None:
    fields = json.loads((tiny_bundle_int4 / "pocketspec.json").read_text())
    fields["schema"] = 1
    for level in fields["levels"]:
        del level["native"]
    assert [level.native for level in parse_manifest(json.dumps(fields), "old").levels] == [None, None]
