"""A model on ONNX Runtime: rows give the same logits however they are fed, and buffers are made once."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.protocols import fitting_rows
from runtime.errors import ContextFullError
from runtime.kernels.selection import PORTABLE
from runtime.models.exact_widths import any_width, even_widths
from runtime.models.io_binding import ancestors
from runtime.models.ort_model import OrtModel, UnsupportedModelError, open_session
from tests.runtime.tiny_graph import POSITIONS, VOCAB, write_tiny_graph

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26]
ROWS = 12
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_graph(tmp_path_factory.mktemp("graph") / "model.onnx")


@pytest.fixture(scope="module")
def model(graph: Path) -> OrtModel:
    return _open(graph)


def _open(path: Path, capacity: int = 64, chunk: int = 5, padded: bool = False) -> OrtModel:
    widths = even_widths(ROWS) if padded else any_width(ROWS)
    return OrtModel(open_session(path, 1), capacity, ROWS, chunk, widths)


def _logits(model: OrtModel, tokens: list[int]) -> np.ndarray:
    """All rows of a fresh forward."""
    model.cache.rollback(0)
    return model.forward(tokens).logits.copy()


def test_rows_agree_however_they_are_fed(model: OrtModel) -> None:
    expected = _logits(model, TOKENS)
    assert expected.shape == (len(TOKENS), VOCAB)
    assert expected.dtype == np.float32
    model.cache.rollback(0)
    single = [model.forward([token]).logits[0].copy() for token in TOKENS]
    assert np.allclose(single, expected, **CLOSE)
    model.cache.rollback(0)
    model.prefill(TOKENS[:8])  # in chunks of 5 and 3
    assert np.allclose(model.forward(TOKENS[8:]).logits, expected[8:], **CLOSE)
    assert model.cache.tokens.tolist() == TOKENS


def test_logits_from_leaves_out_the_first_rows(model: OrtModel) -> None:
    expected = _logits(model, TOKENS)
    for first in range(len(TOKENS)):
        model.cache.rollback(0)
        assert np.allclose(model.forward(TOKENS, None, first).logits, expected[first:], **CLOSE)


def test_a_padded_width_changes_neither_logits_nor_length(graph: Path, model: OrtModel) -> None:
    padded = _open(graph, padded=True)
    assert [padded.padded(rows) for rows in (1, 2, 3, 4)] == [2, 2, 4, 4]
    for rows in (1, 3, 11):
        padded.cache.rollback(0)
        logits = padded.forward(TOKENS[:rows]).logits
        assert padded.cache.length == rows
        assert np.allclose(logits, _logits(model, TOKENS[:rows]), **CLOSE)


def test_a_dummy_row_needs_no_position_of_its_own(graph: Path) -> None:
    padded = _open(graph, capacity=POSITIONS + 2, chunk=64, padded=True)
    padded.prefill([1] * (POSITIONS - 1))
    assert np.isfinite(padded.forward([2]).logits).all()


def test_a_rolled_back_cache_equals_a_fresh_one(model: OrtModel) -> None:
    expected = _logits(model, [*TOKENS[:5], 7, 8, 9])
    model.cache.rollback(0)
    model.prefill(TOKENS)
    model.cache.rollback(5)
    assert np.allclose(model.forward([7, 8, 9]).logits, expected[5:], **CLOSE)


trees = st.lists(st.tuples(st.integers(0, 9), st.integers(0, VOCAB - 1)), min_size=1, max_size=9)


@settings(max_examples=25, deadline=None)
@given(trees)
def test_every_path_of_a_tree_equals_that_path_alone(model: OrtModel, nodes: list[tuple[int, int]]) -> None:
    prefix, anchor = TOKENS[:6], TOKENS[6]
    parents = [-1, *(place % (row + 1) for row, (place, _) in enumerate(nodes))]
    tokens = [anchor, *(token for _, token in nodes)]
    model.cache.rollback(0)
    model.prefill(prefix)
    together = model.forward(tokens, parents).logits.copy()
    cache = [array[:, :, : model.cache.length].copy() for array in model.cache.arrays]
    for row in range(len(tokens)):
        path = [ancestor for ancestor in range(row + 1) if ancestors(parents, len(tokens))[row, ancestor]]
        model.cache.rollback(len(prefix))
        alone = model.forward([tokens[ancestor] for ancestor in path]).logits
        assert np.allclose(together[row], alone[-1], **CLOSE)
        rows = [len(prefix) + ancestor for ancestor in path]
        for tree, chain in zip(cache, model.cache.arrays, strict=True):
            assert np.allclose(tree[:, :, rows], chain[:, :, len(prefix) : model.cache.length], **CLOSE)


def test_a_hidden_row_does_not_touch_a_bit(model: OrtModel) -> None:
    results = []
    for sibling in (1, 77):
        model.cache.rollback(0)
        model.prefill(TOKENS[:6])
        results.append(model.forward([9, sibling, 5, 6], [-1, 0, 0, 2]).logits[[0, 2, 3]].copy())
    assert np.array_equal(*results)


def test_accepted_tree_rows_serve_as_if_decoded_one_by_one(model: OrtModel) -> None:
    expected = _logits(model, [*TOKENS[:6], 9, 5, 6, 4])[-1]
    model.cache.rollback(0)
    model.prefill(TOKENS[:6])
    model.forward([9, 1, 5, 2, 6], [-1, 0, 0, 1, 2])
    model.cache.rollback(6, [6, 8, 10])
    assert model.cache.tokens.tolist() == [*TOKENS[:6], 9, 5, 6]
    assert np.allclose(model.forward([4]).logits[0], expected, **CLOSE)


def test_ancestors_follow_the_parents() -> None:
    visible = ancestors([-1, 0, 0, 1], 5)
    rows = [np.flatnonzero(row).tolist() for row in visible]
    assert rows == [[0], [0, 1], [0, 2], [0, 1, 3], [4]]


def test_graphs_of_other_builders_work_as_chains(graph: Path, model: OrtModel, tmp_path: Path) -> None:
    foreign = _open(write_tiny_graph(tmp_path / "model.onnx", foreign=True))
    assert (foreign.takes_trees, model.takes_trees) == (False, True)
    expected = _logits(model, TOKENS)
    assert np.allclose(_logits(foreign, TOKENS), expected, **CLOSE)
    foreign.cache.rollback(0)
    foreign.prefill(TOKENS[:9])
    assert np.allclose(foreign.forward(TOKENS[9:], None, 2).logits, expected[11:], **CLOSE)


def test_a_half_precision_cache_takes_half_the_bytes(model: OrtModel, tmp_path: Path) -> None:
    half = _open(write_tiny_graph(tmp_path / "model.onnx", kv="float16"))
    assert half.cache.nbytes * 2 == model.cache.nbytes
    assert np.allclose(_logits(half, TOKENS), _logits(model, TOKENS), atol=0.1)


def test_too_many_rows_are_refused_before_anything_is_written(graph: Path) -> None:
    small = _open(graph, capacity=7, padded=True)
    small.prefill(TOKENS[:5])
    assert fitting_rows(small, 8) == 2
    with pytest.raises(ContextFullError, match="4 more rows do not fit a cache of 7 that holds 5"):
        small.forward(TOKENS[:3])
    with pytest.raises(ContextFullError, match="3 more rows"):
        small.prefill(TOKENS[:3])
    assert small.cache.length == 5


def test_a_warm_step_allocates_next_to_nothing(graph: Path) -> None:
    model = _open(graph, capacity=400, padded=True)
    model.prefill(TOKENS * 20)
    model.forward([1, 2, 3])
    tracemalloc.start()
    for token in range(4):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        model.forward((token, 2, 3))
        peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 1500  # a copy of the mask alone would be 2,000 bytes, the logits 1,500


def test_a_cache_that_grows_changes_no_logits(graph: Path) -> None:
    whole, growing = _open(graph), OrtModel(open_session(graph, 1), 64, ROWS, 5, any_width(ROWS), None, PORTABLE, 16, 8)
    for start in range(0, 60, 4):
        tokens = [token % VOCAB for token in range(start, start + 4)]
        assert np.array_equal(whole.forward(tokens).logits, growing.forward(tokens).logits)
        assert growing.cache.rows == max(16, -(-(start + 4) // 8) * 8)


def test_a_resized_model_goes_on_where_it_was(graph: Path) -> None:
    model, expected = _open(graph, capacity=64), _open(graph, capacity=64)
    for each in (model, expected):
        each.prefill(TOKENS)
    wanted = expected.forward([1, 2, 3]).logits
    for capacity, max_rows, chunk in ((24, 4, 2), (200, ROWS, 16), (64, 3, 64)):
        model.resize(capacity, max_rows, chunk)
        assert fitting_rows(model, ROWS) == min(max_rows, capacity - len(TOKENS))
        assert np.array_equal(model.forward([1, 2, 3]).logits, wanted)
        model.cache.rollback(len(TOKENS))
    model.cache.rollback(5)
    model.prefill(TOKENS[5:])
    assert model.cache.tokens.tolist() == TOKENS
    assert np.allclose(model.forward([1, 2, 3]).logits, wanted, **CLOSE)


def test_prefill_computes_no_logits(graph: Path, model: OrtModel, tmp_path: Path) -> None:
    """Of no row, whatever multiplies by the matrix of the head: fp32 here, four bits, our own kernels elsewhere."""
    expected = _logits(model, TOKENS)[-1]
    for path in (graph, write_tiny_graph(tmp_path / "model.onnx", bits=4)):
        fresh = _open(path)
        fresh._buffers.logits[:] = 7
        fresh.prefill(TOKENS[:-1])
        assert (fresh._buffers.logits == 7).all()
        logits = fresh.forward(TOKENS[-1:]).logits[0]
        assert np.isfinite(logits).all()
        if path == graph:
            assert np.allclose(logits, expected, **CLOSE)


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"nothing.onnx is missing; export the bundle again"):
        open_session(tmp_path / "nothing.onnx", 1)


def test_a_damaged_graph_is_named_with_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(UnsupportedModelError, match=r"cannot open .*model.onnx: .+") as error:
        open_session(tmp_path / "model.onnx", 1)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("int64[1,S] input_ids, int64[1,T] attention_mask", "it lacks past_key_values"),
        ("int64[1,S] input_ids, float[1,2,C,8] past_key_values.0.key", "it lacks attention_mask"),
        (
            "int64[1,S] input_ids, int64[1,T] attention_mask, float[1] pixels, float[1,2,C,8] past_key_values.0.key",
            "it needs pixels",
        ),
        (
            "int64[1,S] input_ids, int64[1,T] attention_mask, double[1,2,C,8] past_key_values.0.key",
            r"past_key_values.0.key is tensor\(double\); allowed: tensor\(float\)",
        ),
        (
            "int64[1,S] input_ids, int64[1,T] attention_mask, float[1,N,C,8] past_key_values.0.key",
            r"past_key_values.0.key has shape \[1, 'N', 'C', 8\]; allowed",
        ),
    ],
)
def test_a_graph_that_is_no_decoder_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    inputs = [item.strip().split(" ") for item in text.replace(", ", ";").split(";")]
    graph = ir.Graph([], [], nodes=[], name="other", opset_imports={"": 21})
    kinds = {"int64": ir.DataType.INT64, "float": ir.DataType.FLOAT, "double": ir.DataType.DOUBLE}
    for kind, name in inputs:
        kind, _, shape = kind.rstrip("]").partition("[")
        dims = [int(size) if size.isdigit() else size for size in shape.split(",")]
        graph.inputs.append(ir.Value(name=name, type=ir.TensorType(kinds[kind]), shape=ir.Shape(dims)))
    for name in ["logits", *(name.replace("past_key_values", "present") for _, name in inputs if "past" in name)]:
        node = ir.node("Identity", [graph.inputs[-1]])
        node.outputs[0].name = name
        node.outputs[0].type, node.outputs[0].shape = graph.inputs[-1].type, graph.inputs[-1].shape
        if name == "logits":
            node = ir.node("Cast", [graph.inputs[0]], {"to": 1})
            node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
            node.outputs[0].shape = graph.inputs[0].shape
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=reason):
        _open(tmp_path / "model.onnx")


def test_threads_rest_between_forwards(tmp_path: Path) -> None:
    """They burn 40 ms after each by default, on the cores that the next model's forward needs."""
    write_tiny_graph(tmp_path / "model.onnx")
    model = OrtModel(open_session(tmp_path / "model.onnx", 2), 64, 4, 16, any_width(4))
    model.prefill(list(range(40)))
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.01
