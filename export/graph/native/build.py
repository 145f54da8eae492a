"""The native form of an exported level: ``native.onnx`` for every KV type, and ``native.json``, the packing table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import PassManager
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from export.bundle_files import sha256_of
from export.graph.expert_functions import EXPERTS
from export.graph.ir_helpers import find_nodes
from export.graph.native.attention import CacheAttention
from export.graph.native.caches import kv_types, with_kv_type
from export.graph.native.functions import NativeFunctions
from export.graph.native.gates import FuseGates
from export.graph.native.norms import FuseGains, FuseResiduals, SplitSkipNorms
from export.graph.native.operators import DOMAIN
from export.graph.native.panels import place_weights
from export.graph.native.products import PanelGathers, PanelProducts
from export.graph.native.states import FuseStates
from export.graph.passes import CONTRIB
from export.manifest import PACKED_FILE_NAME, PACKING_TABLE_NAME, NativeForm


def write_native(folder: Path, graph: str = "model.onnx", planes: int = 1) -> NativeForm | None:
    """Writes the native graphs of ``folder/graph`` and their packing table beside it.

    None, and nothing is written, if our kernels cannot run it: weights other than int4 and int8, block sizes other than
    32, 64 and 128. Of the weights only scales are read. With 2 ``planes`` the halves of int8 codes lie apart.
    """
    from runtime.kernels.weights.layout import LAYOUT_VERSION
    from runtime.kernels.weights.packing_table import dump_table

    model = ir.load(folder / graph)
    if not can_pack(model):
        return None
    source = f"{graph}.data"
    fuse_operators(model)
    table = place_weights(model, source, (folder / source).stat().st_size, planes)
    graphs = {kv_type: "native.onnx" if kv_type == "fp32" else f"native-{kv_type}.onnx" for kv_type in kv_types(model)}
    for kv_type, name in graphs.items():
        ir.save(with_kv_type(model, kv_type), folder / name)
    (folder / PACKING_TABLE_NAME).write_text(dump_table(table), encoding="utf-8")
    return NativeForm(graphs, PACKING_TABLE_NAME, PACKED_FILE_NAME, table.size, LAYOUT_VERSION)


def pack_native(folder: Path, graph: str = "model.onnx", report: Callable[[int], None] = lambda count: None) -> Path:
    """Writes the packed file of ``write_native``'s graphs; ``report`` gets the bytes written since its last call."""
    from runtime.kernels.weights.packing import pack

    return pack(folder, sha256_of(folder / f"{graph}.data"), report=report)


def fuse_operators(model: ir.Model) -> None:
    """All fusions in their order, in place; weights stay where they are."""
    model.opset_imports[DOMAIN] = 1
    panels = [PanelProducts(), PanelGathers()]
    fusions = [
        *(NativeFunctions(), CacheAttention(), FuseStates()),
        *(SplitSkipNorms(), FuseResiduals(), FuseGains(), FuseGates()),
    ]
    PassManager([*panels, *fusions, RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass()])(model)


def can_pack(model: ir.Model) -> bool:
    """Whether all quantized matrices of a graph have sizes that panels are made for, and there are any."""
    from runtime.kernels.weights.layout import BLOCK_SIZES

    products = [*find_nodes(model, "MatMulNBits", CONTRIB), *find_nodes(model, "GatherBlockQuantized", CONTRIB)]
    nodes = [*products, *find_nodes(model, EXPERTS, DOMAIN)]
    fits = (node.attributes["bits"].as_int() in (4, 8) for node in nodes)
    sizes = {node.attributes["block_size"].as_int() for node in nodes}
    return bool(nodes) and all(fits) and sizes <= set(BLOCK_SIZES)
