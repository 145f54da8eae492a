"""Tables of which a step reads a few rows: their bytes need not stay in memory, as those of weights must."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from export.graph.passes import CONTRIB

# Inputs that are read by rows: those of token ids in embeddings, those of positions in rotary tables.
_ROWS_OF = {
    ("Gather", ""): (0,),
    ("GatherBlockQuantized", CONTRIB): (0, 2, 3),
    ("RotaryEmbedding", CONTRIB): (2, 3),
}


def sparse_bytes(graph: Path) -> int:
    """Bytes in the data file of ``graph`` that are read by rows alone; an embedding that is also the head's is not."""
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
