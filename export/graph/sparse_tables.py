"""Tables of which a step reads a few rows: unlike those of other weights, their bytes need not stay in memory."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from export.graph.passes import CONTRIB

# Inputs of which an operator reads rows: those of token ids in embeddings, those of positions in rotary tables.
_ROWS_OF = {
    ("Gather", ""): (0,),
    ("GatherBlockQuantized", CONTRIB): (0, 2, 3),
    ("RotaryEmbedding", CONTRIB): (2, 3),
}


def sparse_bytes(graph: Path) -> int:
    """Bytes in the data file of ``graph`` of which rows alone are read, without an embedding that is also the head."""
    sparse: dict[int, int] = {}
    whole: set[int] = set()
    for value in ir.load(graph).graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        position = tensor.offset or 0
        if all(index in _ROWS_OF.get((node.op_type, node.domain), ()) for node, index in value.uses()):
            sparse[position] = tensor.nbytes
        else:
            whole.add(position)
    return sum(size for position, size in sparse.items() if position not in whole)
