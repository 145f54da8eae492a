"""The native form of an exported level: ``native.onnx`` for every KV type, and ``native.json``, the packing table."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import PassManager
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from export.manifest import NativeForm
from export.native.operators import DOMAIN
from export.native.panels import place_weights
from export.native.products import PanelGathers, PanelProducts
from export.passes import CONTRIB
from export.tidy import find_nodes

DATA, TABLE = "native.data", "native.json"


def write_native(folder: Path, graph: str = "model.onnx") -> NativeForm | None:
    """Writes the native graphs of ``folder/graph`` and their packing table beside it.

    None, and nothing written, where our kernels cannot run it: other weights than int4 and int8, other block sizes than
    32, 64 and 128. Weights are not read, but for the scales.
    """
    from runtime.kernels.layout import LAYOUT_VERSION
    from runtime.kernels.table import dump_table

    model = ir.load(folder / graph)
    if not can_pack(model):
        return None
    source = f"{graph}.data"
    model.opset_imports[DOMAIN] = 1
    PassManager([PanelProducts(), PanelGathers(), RemoveUnusedNodesPass()])(model)
    table = place_weights(model, source, (folder / source).stat().st_size)
    RemoveUnusedOpsetsPass()(model)
    ir.save(model, folder / "native.onnx")
    (folder / TABLE).write_text(dump_table(table), encoding="utf-8")
    return NativeForm({"fp32": "native.onnx"}, TABLE, DATA, table.size, LAYOUT_VERSION)


def can_pack(model: ir.Model) -> bool:
    """Whether all quantized matrices of a graph have sizes that panels are made for, and there are any."""
    from runtime.kernels.layout import BLOCK_SIZES

    nodes = [*find_nodes(model, "MatMulNBits", CONTRIB), *find_nodes(model, "GatherBlockQuantized", CONTRIB)]
    fits = (node.attributes["bits"].as_int() in (4, 8) for node in nodes)
    sizes = {node.attributes["block_size"].as_int() for node in nodes}
    return bool(nodes) and all(fits) and sizes <= set(BLOCK_SIZES)
