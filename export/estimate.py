"""Estimates an export from shapes alone, before anything is downloaded or built: bytes, seconds and memory.

An export that does not fit into the available memory is refused at once, not killed later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from export.manifest import ModelShape, PocketspecError
from export.request import BITS, NATIVE_BLOCK_SIZES, ExportJob
from export.sources.random_weights import tensor_shapes
from export.validation.limits import LEAN_TOKENS, MAX_TOKENS, PIECE_BYTES, count_tokens
from export.validation.peak_memory import held_bytes

# Rounded seconds of exports on 2 cores of a server CPU: for building a graph, and for writing a weight.
GRAPH_SECONDS = 4.0
GRAPH_SECONDS_PER_LAYER = 0.4
SECONDS_PER_PARAMETER = {4: 40e-9, 8: 15e-9, 16: 5e-9, 32: 5e-9}
# Anonymous bytes, measured with torch 2.13 and transformers 5.24 on Linux (x86-64): of these libraries and a traced
# graph, of each of its layers, of tiles that are being quantized. The check adds a piece of the graph, its packed copy
# with what its session needs, tiles of the reference, and logits. Peaks at 0.3 M, 9 M and 1.5 B parameters (422, 459
# and 1,138 MB) were between 2% above and 6% below the sum.
PROCESS_BYTES = 400_000_000
LAYER_BYTES = 2_500_000
WRITE_BYTES = 90_000_000
_PIECE_FACTOR, _LOGITS_FACTOR = 2.2, 1.7
_TILES_BYTES = 64 << 20


class TooLittleMemoryError(PocketspecError, MemoryError):
    """An export that does not fit into the available memory."""


@dataclass(frozen=True)
class Estimate:
    """What a level will take, roughly: parameters, bytes on disk, seconds without the check, peak bytes of memory.

    ``lean_bytes`` is the peak if the check runs over few tokens.
    """

    parameters: int
    file_bytes: int
    seconds: float
    peak_bytes: int
    lean_bytes: int


def count_parameters(config: Any, make: Callable[[], Any] | None = None) -> int:
    """The number of weights of transformers' model of ``config``, or of what ``make`` makes; tied heads once."""
    shapes, buffers = tensor_shapes(config, make)
    return sum(math.prod(shape) for name, shape in shapes.items() if name not in buffers)


def estimate_job(
    job: ExportJob, shape: ModelShape, parameters: int, block_size: int | None, packed: bool = False
) -> Estimate:
    """The estimate of one level of so many ``parameters``; ``packed``: with packed weights as well.

    A block of a quantized matrix has a scale of 4 bytes, and one of 2 bytes in a packed file.
    """
    bits = BITS[job.weights]
    bits_per_weight = bits + (32 / block_size if block_size else 0)
    tables = shape.positions * shape.head_size * 4
    seconds = GRAPH_SECONDS + GRAPH_SECONDS_PER_LAYER * shape.layers + parameters * SECONDS_PER_PARAMETER[bits]
    size = int(parameters * bits_per_weight / 8) + tables
    if packed and block_size in NATIVE_BLOCK_SIZES:
        size += int(parameters * (bits + 16 / block_size) / 8) + tables
    counts = count_tokens(shape, MAX_TOKENS), LEAN_TOKENS
    memory = [peak_bytes(shape, parameters, bits_per_weight, tokens) for tokens in counts]
    return Estimate(parameters, size, seconds, *memory)


def peak_bytes(shape: ModelShape, parameters: int, bits_per_weight: float, tokens: int) -> int:
    """The peak of memory of an export whose check runs over ``tokens`` tokens, in bytes."""
    head = shape.vocab_size * shape.hidden_size if bits_per_weight < 16 else 0  # a float head is not copied
    piece = max(min(PIECE_BYTES, parameters * bits_per_weight / 8), head * bits_per_weight / 8)
    logits = 4 * shape.vocab_size * tokens
    check = _PIECE_FACTOR * piece + _LOGITS_FACTOR * logits + min(_TILES_BYTES, 4 * parameters)
    return int(PROCESS_BYTES + LAYER_BYTES * shape.layers + max(WRITE_BYTES * (parameters > 50e6), check))


def require_memory(name: str, needed: int) -> None:
    """TooLittleMemoryError unless ``needed`` bytes are available."""
    found = attainable_bytes()
    if needed > found:
        raise TooLittleMemoryError(
            f"exporting {name} takes about {needed / 1e6:,.0f} MB of memory, {found / 1e6:,.0f} MB can be had here:"
            " close other programs, raise the container's limit, or export elsewhere: bundles run in less"
        )


def attainable_bytes() -> int:
    """The memory that this process can have: what is available, and what it holds already."""
    from memory.device import read_device

    return read_device().available_bytes + held_bytes()
