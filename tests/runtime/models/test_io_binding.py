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

from runtime.models.io_binding import Binding, Buffers, read_signature
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
    """Gives one binding."""

    def __init__(self) -> None:
        self.binding = ForgetfulBinding()

    def io_binding(self) -> ForgetfulBinding:
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
    binding = Binding(session, signature, buffers, ROWS, ROWS, tree)
    binding.fill([1, 2, 3], [-1, 0, 0] if tree else None, past=5)
    bound = session.binding.bound
    del cache, buffers
    gc.collect()
    assert {"input_ids", "attention_mask", "position_ids", "logits_from", "logits"} <= set(bound)
    assert ("tree_bias" in bound) == tree
    assert [name for name, array in bound.items() if array() is None] == []
    assert binding.logits.shape == (ROWS, signature.vocab_size)


def test_what_is_bound_last_replaces_what_was_bound_before(tmp_path: Path) -> None:
    session = open_session(write_tiny_graph(tmp_path / "model.onnx"), 1)
    signature = read_signature(session)
    cache = KVCache(signature.kv_shapes, signature.kv_types, 16)
    binding = Binding(session, signature, Buffers(signature, cache, ROWS, ROWS), ROWS, 1, tree=False)
    told = []
    for past in (0, 0, 4):
        binding.fill([1, 2, 3, 4], None, past)
        session.run_with_iobinding(binding.io)
        told.append(np.array(binding.logits))
    assert np.array_equal(told[0], told[1])
    assert not np.array_equal(told[0], told[2])
