"""Portable graphs of all KV types: caches as exact as their scales, the laws of the float32 graph, weights shared."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.kv_variants import portable_kv_types, write_kv_graph
from export.manifest import read_manifest
from export.validation.check import read_passage
from export.validation.kv_ranges import measure_ranges
from runtime.errors import UnsupportedModelError
from runtime.kernels.backends import PORTABLE
from runtime.models.exact_widths import any_width
from runtime.models.io_binding import ancestors
from runtime.models.ort_model import OrtModel, open_session

GRAPHS = {"fp32": "model.onnx", "fp16": "model-fp16.onnx", "int8": "model-int8.onnx", "int4": "model-int4.onnx"}
TOKENS = np.random.default_rng(3).integers(0, 256, 40).tolist()
# Largest logit differences, as shares of the largest logit: from float32, twice what the tiny model shows, and between
# two ways to feed the same rows. Products of other sizes have other last bits, which may turn a rounding around.
CLOSE = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.1, "int4": 1.0}
SAME = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.02, "int4": 0.1}


def open_graph(folder: Path, kind: str) -> OrtModel:
    return OrtModel(open_session(folder / GRAPHS[kind], 1), 64, 40, 16, any_width(40))


def unpacked(array: np.ndarray) -> np.ndarray:
    """Codes of a cache as whole numbers; of two in a byte, the first lies in the low half, 8 above its value."""
    if array.dtype != np.uint8:
        return array.astype(np.float32)
    return np.stack([array & 15, array >> 4], -1).reshape(*array.shape[:-1], -1).astype(np.float32) - 8


def scales_of(folder: Path, kind: str) -> dict[str, np.ndarray]:
    values = ir.load(folder / GRAPHS[kind]).graph.initializers
    return {
        name.removesuffix(".scale"): value.const_value.numpy() for name, value in values.items() if ".scale" in name
    }


@pytest.fixture(scope="module", params=GRAPHS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path, kind: str) -> OrtModel:
    return open_graph(tiny_bundle, kind)


def apart(left: np.ndarray, right: np.ndarray) -> float:
    """Largest difference as a share of the largest value."""
    return float(np.abs(left - right).max() / np.abs(right).max())


def test_targets_have_every_type_and_drafters_two(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    for bundle in (tiny_bundle, tiny_bundle_int4):
        target, drafter = read_manifest(bundle).levels
        assert dict(target.graphs) == GRAPHS
        assert dict(drafter.graphs) == {kind: GRAPHS[kind] for kind in ("fp32", "fp16")}


def test_all_types_read_the_same_weights(tiny_bundle_int4: Path) -> None:
    outside = {}
    for kind, graph in GRAPHS.items():
        tensors = onnx.load(tiny_bundle_int4 / graph, load_external_data=False).graph.initializer
        outside[kind] = {t.name: [(e.key, e.value) for e in t.external_data] for t in tensors if t.external_data}
    assert outside["fp32"]
    assert all(places == outside["fp32"] for places in outside.values())


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_caches_are_as_exact_as_their_scales(tiny_bundle: Path, kind: str) -> None:
    """Those of the first layer, whose keys and values are the same numbers in every graph."""
    exact, rounded, scales = (
        open_graph(tiny_bundle, "fp32"),
        open_graph(tiny_bundle, kind),
        scales_of(tiny_bundle, kind),
    )
    for each in (exact, rounded):
        each.prefill(TOKENS)
    largest = 127 if kind == "int8" else 7
    for name, left, right in zip(("key", "value"), exact.cache.arrays, rounded.cache.arrays, strict=False):
        scale = scales[f"past_key_values.0.{name}"]
        wanted = np.clip(left[:, :, : len(TOKENS)], -(largest + 1) * scale, largest * scale)
        error = np.abs(unpacked(right[:, :, : len(TOKENS)]) * scale - wanted)
        assert (error <= scale * 0.5001).all()


def test_logits_are_close_to_those_of_float32(tiny_bundle: Path, model: OrtModel, kind: str) -> None:
    exact = open_graph(tiny_bundle, "fp32")
    for each in (exact, model):
        each.cache.rollback(0)
        each.prefill(TOKENS[:20])
    assert apart(model.forward(TOKENS[20:]).logits, exact.forward(TOKENS[20:]).logits) <= CLOSE[kind]


def test_paths_of_a_tree_equal_the_paths_alone(model: OrtModel, kind: str) -> None:
    parents = [-1, 0, 0, 1, 2, 4, 4]
    tokens = TOKENS[20 : 20 + len(parents)]
    model.cache.rollback(0)
    model.prefill(TOKENS[:20])
    together = model.forward(tokens, parents).logits.copy()
    for row in range(len(tokens)):
        path = [ancestor for ancestor in range(row + 1) if ancestors(parents, len(tokens))[row, ancestor]]
        model.cache.rollback(20)
        alone = model.forward([tokens[ancestor] for ancestor in path]).logits
        assert apart(together[row], alone[-1]) <= SAME[kind]


def test_a_rolled_back_cache_equals_a_fresh_one(model: OrtModel, kind: str) -> None:
    model.cache.rollback(0)
    wanted = model.forward([*TOKENS[:9], 7, 8]).logits[9:].copy()
    model.cache.rollback(0)
    model.prefill(TOKENS)
    model.cache.rollback(9)
    assert apart(model.forward([7, 8]).logits, wanted) <= SAME[kind]


def test_accepted_tree_rows_serve_as_if_decoded_one_by_one(model: OrtModel, kind: str) -> None:
    model.cache.rollback(0)
    wanted = model.forward([*TOKENS[:6], 9, 5, 6, 4]).logits[-1].copy()
    model.cache.rollback(0)
    model.prefill(TOKENS[:6])
    model.forward([9, 1, 5, 2, 6], [-1, 0, 0, 1, 2])
    model.cache.rollback(6, [6, 8, 10])
    assert apart(model.forward([4]).logits[0], wanted) <= SAME[kind]


def test_bytes_of_a_cache_follow_from_its_type(model: OrtModel, kind: str) -> None:
    bits = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}[kind]
    assert model.cache.nbytes == 2 * 2 * 2 * 64 * 16 * bits // 8  # layers, key and value, heads, rows, size


def test_no_cache_is_converted(tiny_bundle: Path, kind: str, tmp_path: Path) -> None:
    """ONNX Runtime puts conversions of whole caches, unused rows too, around an operator that lacks a type."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(tiny_bundle / GRAPHS[kind], options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    casts = [name for node in nodes if node.op_type == "Cast" for name in (*node.input, *node.output)]
    assert not any(name.startswith(("past_key_values", "present")) for name in casts)


def test_ranges_are_the_largest_values_of_a_text(tiny_bundle: Path) -> None:
    exact = open_graph(tiny_bundle, "fp32")
    exact.prefill(TOKENS)
    ranges = measure_ranges(tiny_bundle / "model.onnx", TOKENS)
    for (name, largest), array in zip(ranges.items(), exact.cache.arrays, strict=True):
        assert name.startswith("past_key_values.")
        assert np.allclose(largest, np.abs(array[:, :, : len(TOKENS)]).max(2, keepdims=True), atol=1e-5)


def test_scales_follow_from_ranges_of_another_text_than_the_check(tiny_bundle: Path) -> None:
    level = read_manifest(tiny_bundle).target
    text = read_passage(tiny_bundle, level.shape, bundled=("mine", "User: Hi! Can you plan three days in Lisbon?"))
    ranges = measure_ranges(tiny_bundle / "model.onnx", text.tokens)
    for kind, largest in (("int8", 127), ("int4", 7)):
        for name, scale in scales_of(tiny_bundle, kind).items():
            assert (scale * largest > ranges[name]).all()


def test_channels_that_the_text_left_at_zero_have_a_scale(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        shutil.copyfile(tiny_bundle / name, tmp_path / name)
    zeros = {name: np.zeros_like(largest) for name, largest in scales_of(tiny_bundle, "int8").items()}
    write_kv_graph(tmp_path, "model.onnx", "int8", zeros)
    assert all((scale > 0).all() for scale in scales_of(tmp_path, "int8").values())
    assert np.isfinite(open_graph(tmp_path, "int8").forward(TOKENS).logits).all()


def test_heads_of_an_odd_size_have_no_int4(tiny_bundle: Path) -> None:
    shape = replace(read_manifest(tiny_bundle).target.shape, head_size=15)
    assert portable_kv_types("target", shape) == ["fp16", "int8"]


def test_an_onnx_runtime_that_is_too_old_is_told_in_one_line(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = read_manifest(tiny_bundle).target
    monkeypatch.setattr(onnxruntime, "__version__", "1.26.3")
    assert PORTABLE.graph(tiny_bundle, level, "fp16").name == "model-fp16.onnx"
    with pytest.raises(UnsupportedModelError) as error:
        PORTABLE.graph(tiny_bundle, level, "int8")
    assert str(error.value) == (
        "tiny-target cannot have a KV cache in int8 with ONNX Runtime 1.26.3, which needs 1.27 for that; install it or"
        " take fp16"
    )
