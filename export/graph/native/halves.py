"""The target's own int4 half as a drafter: its native graphs once more, with products that read the high plane alone.

The weights stay where they are: codes, scales and vectors are the same bytes of the same packed file, of the codes the
first half. A high half stands for 16 times the weight that an int4 code does, which ``scale`` says. Rows of the
embedding are read whole, which costs nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import onnx_ir as ir

from export.graph.native.operators import ProductInput, input_at, products
from export.manifest import NativeForm

_SCALE = 16.0


def write_halves(folder: Path, target: NativeForm) -> NativeForm:
    """Writes the graphs of the drafter beside those of the ``target``, whose int8 codes lie in two planes."""
    graphs, read = {}, 0
    for kv_type, name in target.graphs.items():
        model = ir.load(folder / name)
        read_high_planes(model)
        for value in [value for value in model.graph.outputs if not str(value.name).startswith(("logits", "present."))]:
            model.graph.outputs.remove(value)  # hidden rows are the target's to give
        graphs[kv_type] = name.replace("native", "halves")
        read = sum(_bytes_read(value) for value in model.graph.initializers.values())
        ir.save(model, folder / graphs[kv_type])
    return NativeForm(graphs, target.table, target.data, read, target.layout)


def read_high_planes(model: ir.Model) -> None:
    """Has all products of ``model`` read the high plane of their codes alone, in place."""
    halves: dict[str, ir.Value] = {}
    for node in products(model):
        codes = input_at(node, ProductInput.CODES)
        assert codes is not None
        assert node.attributes["planes"].as_int() == 2, node.name
        name = str(codes.name)
        if name not in halves:
            halves[name] = _high_plane(codes)
            model.graph.register_initializer(halves[name])
        node.replace_input_with(ProductInput.CODES, halves[name])
        del node.attributes["planes"]
        node.attributes["bits"] = ir.AttrInt64("bits", 4)
        node.attributes["scale"] = ir.AttrFloat32("scale", _SCALE)
    for name, value in list(model.graph.initializers.items()):
        if not list(value.uses()):
            del model.graph.initializers[name]


def _high_plane(codes: ir.Value) -> ir.Value:
    """The first half of an initializer in the packed file."""
    whole = codes.const_value
    assert isinstance(whole, ir.ExternalTensor)
    panels, *rest = whole.shape.numpy()
    shape = ir.Shape([panels // 2, *rest])
    name = f"{codes.name}.high"
    size = math.prod(shape.numpy())
    tensor = ir.ExternalTensor(whole.location, whole.offset, size, whole.dtype, shape=shape, name=name)
    return ir.Value(name=name, shape=shape, type=ir.TensorType(whole.dtype), const_value=tensor)


def _bytes_read(value: ir.Value) -> int:
    """Bytes of an initializer that steps read: none of a table that gives rows alone."""
    users = {node.op_type for node, _ in value.uses()}
    tensor = value.const_value
    return 0 if tensor is None or users <= {"GatherPanel", "CachedAttention"} else tensor.nbytes
