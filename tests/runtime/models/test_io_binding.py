"""What is bound lives as long as its binding, whatever ONNX Runtime itself keeps: below 1.29 it keeps nothing."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from runtime.models.io_binding import Binding, Buffers, SharedBindings, read_signature
from runtime.models.kv_cache import KVCache
from runtime.models.ort_model import open_session
from tests.runtime.tiny_graph import write_tiny_graph

ROWS = 4


class ForgetfulBinding:
    """Takes arrays as ONNX Runtime below 1.29 does: by their address."""

    def __init__(self) -> None:
        self.bound: dict[str, weakref.ref[npt.NDArray[Any]]] = {}

    def _bind(self, name: str, array: npt.NDArray[Any]) -> None:
        self.bound[name] = weakref.ref(array)

    bind_cpu_input = bind_ortvalue_input = bind_ortvalue_output = _bind


class ForgetfulSession:
    """Counts its bindings, and has the last."""

    def __init__(self) -> None:
        self.count = 0

    def io_binding(self) -> ForgetfulBinding:
        self.count, self.binding = self.count + 1, ForgetfulBinding()
        return self.binding


@pytest.mark.parametrize("tree", [False, True])
def test_whatever_is_bound_lives_as_long_as_the_binding(
    tree: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = read_signature(open_session(write_tiny_graph(tmp_path / "model.onnx"), 1))
    cache = KVCache(signature.kv_shapes, signature.kv_types, 16)
    buffers = Buffers(signature, cache, ROWS, ROWS)
    session: Any = ForgetfulSession()
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", lambda array: array)
    binding = Binding(SharedBindings(session, signature, buffers), ROWS, ROWS, tree)
    binding.fill([1, 2, 3], [-1, 0, 0] if tree else None, past=5)
    bound = session.binding.bound
    del cache, buffers
    gc.collect()
    assert {"input_ids", "attention_mask", "position_ids", "logits_from", "logits"} <= set(bound)
    assert ("tree_bias" in bound) == tree
    assert [name for name, array in bound.items() if array() is None] == []
    assert binding.logits.shape == (ROWS, signature.logits_width)


def test_what_is_bound_last_replaces_what_was_bound_before(tmp_path: Path) -> None:
    session = open_session(write_tiny_graph(tmp_path / "model.onnx"), 1)
    signature = read_signature(session)
    cache = KVCache(signature.kv_shapes, signature.kv_types, 16)
    binding = Binding(SharedBindings(session, signature, Buffers(signature, cache, ROWS, ROWS)), ROWS, 1, tree=False)
    told = []
    for past in (0, 0, 4):
        binding.fill([1, 2, 3, 4], None, past)
        session.run_with_iobinding(binding.io)
        told.append(np.array(binding.logits))
    assert np.array_equal(told[0], told[1])
    assert not np.array_equal(told[0], told[2])


def test_no_number_of_rows_binds_the_cache_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = read_signature(open_session(write_tiny_graph(tmp_path / "model.onnx"), 1))
    cache = KVCache(signature.kv_shapes, signature.kv_types, 16)
    session: Any = ForgetfulSession()
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", lambda array: array)
    shared = SharedBindings(session, signature, Buffers(signature, cache, ROWS, ROWS))
    kept = [Binding(shared, width, 1, tree) for width in range(1, ROWS + 1) for tree in (False, True)]
    assert len({id(binding.io) for binding in kept}) == session.count == 2


def test_forwards_of_different_kinds_take_turns(tmp_path: Path) -> None:
    session = open_session(write_tiny_graph(tmp_path / "model.onnx"), 1)
    signature = read_signature(session)

    def run(binding: Binding, tokens: list[int], past: int) -> npt.NDArray[Any]:
        binding.fill(tokens, None if len(tokens) < 3 else [-1, 0, 0], past)
        session.run_with_iobinding(binding.io)
        return np.array(binding.logits)

    def make() -> tuple[Binding, ...]:
        cache = KVCache(signature.kv_shapes, signature.kv_types, 16)
        shared = SharedBindings(session, signature, Buffers(signature, cache, ROWS, ROWS))
        return (
            Binding(shared, 1, 1, False),
            Binding(shared, 2, 1, False),
            Binding(shared, 2, 2, False),
            Binding(shared, 3, 3, True),
        )

    rows = [[5], [6, 7], [6, 7], [6, 7, 8]]
    alone = [run(make()[place], tokens, 0) for place, tokens in enumerate(rows)]
    together = make()
    for _ in range(2):
        for binding, tokens, expected in zip(together, rows, alone, strict=True):
            assert np.array_equal(run(binding, tokens, 0), expected)
