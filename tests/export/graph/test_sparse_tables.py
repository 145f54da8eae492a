"""Which bytes a step reads by rows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.graph.sparse_tables import sparse_bytes
from export.manifest import read_manifest

_HEAD = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> g '
_GATHER = "com.microsoft.GatherBlockQuantized <bits=8, block_size=32, gather_axis=0, quantize_axis=1>"
_PRODUCT = "com.microsoft.MatMulNBits <K=64, N=100, bits=8, block_size=32>"


def write_graph(path: Path, text: str, places: dict[str, int]) -> Path:
    """The graph ``text``, whose inputs named in ``places`` lie at these positions of a data file."""
    model = ir.from_onnx_text(_HEAD + text)
    for value in list(model.graph.inputs):
        if value.name in places:
            model.graph.inputs.remove(value)
            value.const_value = ir.ExternalTensor(
                "data", places[value.name], None, value.dtype, shape=value.shape, name=value.name, base_dir=path.parent
            )
            model.graph.register_initializer(value)
    (path.parent / "data").write_bytes(bytes(100_000))
    ir.save(model, path)
    return path


@pytest.mark.parametrize(
    ("text", "places", "wanted"),
    [
        ("(int64[1,s] i, float[100,64] e) => (float[1,s,64] y) {{ y = Gather(e, i) }}", {"e": 0}, 25_600),
        (
            "(int64[1,s] i, float[100,64] e) => (float[1,s,64] y, float[64,100] z)"
            " {{ y = Gather(e, i) z = Transpose(e) }}",
            {"e": 0},
            0,
        ),
        (
            "(int64[1,s] i, uint8[100,64] c, float[100,2] s) => (float[1,s,64] y) {{ y = {gather} (c, i, s) }}",
            {"c": 0, "s": 8192},
            6400 + 800,
        ),
        (  # tied to the head: the same codes under another shape, the very same scales
            "(int64[1,s] i, uint8[100,64] c, uint8[100,2,32] d, float[100,2] s)"
            " => (float[1,s,64] y, float[1,s,100] z) {{ y = {gather} (c, i, s) z = {product} (y, d, s) }}",
            {"c": 0, "d": 0, "s": 8192},
            0,
        ),
    ],
)
def test_tables_of_rows_count_unless_something_reads_them_whole(
    text: str, places: dict[str, int], wanted: int, tmp_path: Path
) -> None:
    text = text.format(gather=_GATHER, product=_PRODUCT)
    assert sparse_bytes(write_graph(tmp_path / "model.onnx", text, places)) == wanted


def test_tied_embeddings_leave_the_rotary_tables(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    for bundle in (tiny_bundle, tiny_bundle_int4):
        for level in read_manifest(bundle).levels:
            assert level.sparse_bytes == 2 * 512 * 8 * np.dtype(np.float32).itemsize
