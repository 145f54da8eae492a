"""Where every buffer of a level lies, for engines that take their memory in a few large blocks.

A level has two blocks: "cache", the KV rows, which live as long as the level is open, and "work", which may be laid out
anew between two steps. Sizes are those that the plan counts as "KV cache", "logits" and "inputs"; the tokens of the KV
rows, four bytes each, and one of the three arrays of numbers for each row are no buffers of a graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from export.manifest import Level
from memory.footprint import kv_row_bytes
from memory.plan import LevelPlan

# Wide enough for the registers of any processor, and the length of a line of its cache.
ALIGNMENT = 64
_FLOAT, _LONG = 4, 8


@dataclass(frozen=True)
class ArenaBuffer:
    """``count`` arrays of ``bytes`` bytes each, the first at ``offset`` in its block, the next ``stride`` bytes on."""

    name: str
    offset: int
    bytes: int
    count: int = 1
    stride: int = 0


@dataclass(frozen=True)
class ArenaBlock:
    """One block of memory and the ``buffers`` in it."""

    name: str
    bytes: int
    buffers: tuple[ArenaBuffer, ...]


def level_blocks(level: Level, plan: LevelPlan, prefill_chunk: int) -> tuple[ArenaBlock, ArenaBlock]:
    """The blocks of ``level`` opened as planned, whose prompts are read in chunks of ``prefill_chunk`` rows.

    "kv" has keys and values of every layer with a cache, in the order of the graph's inputs, each ``[1, kv_heads,
    capacity, row]``, with the largest heads.
    """
    shape, rows = level.shape.widest, max(plan.max_rows, prefill_chunk)
    row = kv_row_bytes(shape.head_size, plan.kv_type, plan.residence)
    bias = plan.max_rows * plan.capacity * _FLOAT if plan.tree else 0
    work = [
        ("logits", plan.logits_rows * level.logits_width * _FLOAT, 1),
        ("input_ids", rows * _LONG, 1),
        ("position_ids", rows * _LONG, 1),
        ("logits_from", _LONG, 1),
        ("attention_mask", plan.capacity * _LONG, 1),
        ("tree_bias", bias, 1),
    ]
    cache = [("kv", shape.kv_heads * plan.capacity * row, 2 * shape.kv_layers)]
    return _block("cache", cache), _block("work", work)


def _block(name: str, wanted: Iterable[tuple[str, int, int]]) -> ArenaBlock:
    """A block of the ``wanted`` buffers: name, bytes and count of each."""
    buffers, end = [], 0
    for buffer, size, count in wanted:
        if size:
            stride = -(-size // ALIGNMENT) * ALIGNMENT
            buffers.append(ArenaBuffer(buffer, end, size, count, stride))
            end += count * stride
    return ArenaBlock(name, end, tuple(buffers))
