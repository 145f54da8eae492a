"""A tensor that ONNX Runtime wrote twice at the end of a data file is read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from runtime.models import prepacker


def places(tensors: list[tuple[int, int]]) -> bytes:
    """A graph file with tensors in a data file, by offset and size."""
    model = onnx.ModelProto(ir_version=10, producer_name="x" * 200)
    for offset, size in tensors:
        tensor = model.graph.initializer.add(name=f"at {offset}", data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", "data"), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def places_in(graph: Path) -> list[tuple[int, int]]:
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    return [(int(values["offset"]), int(values["length"])) for values in entries]


@pytest.mark.parametrize("first", [0, 2000])
def test_a_last_tensor_that_is_there_twice_is_read_once(tmp_path: Path, first: int) -> None:
    graph, data = tmp_path / "graph", tmp_path / "data"
    values = np.random.default_rng(0).bytes(4000)
    data.write_bytes(values + values[first : first + 1000])
    tensors = [(0, 1000), (1000, 1000), (2000, 1000), (3000, 1000)]
    graph.write_bytes(places([*tensors, (4000, 1000)]))
    prepacker.read_once(graph, data)
    assert data.read_bytes() == values
    assert places_in(graph) == [*tensors, (first, 1000)]


@pytest.mark.parametrize("size", [1000, 999])
def test_other_last_tensors_stay(tmp_path: Path, size: int) -> None:
    """One that is there once, and one behind which something else lies."""
    graph, data = tmp_path / "graph", tmp_path / "data"
    values = np.random.default_rng(0).bytes(1000) * 2 if size < 1000 else np.random.default_rng(0).bytes(2000)
    data.write_bytes(values)
    graph.write_bytes(places([(0, size), (1000, size)]))
    prepacker.read_once(graph, data)
    assert (data.read_bytes(), graph.read_bytes()) == (values, places([(0, size), (1000, size)]))
