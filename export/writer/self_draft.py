"""Adds drafters that are part of a target: graphs beside its own that read its weights, and no weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.graph.native.halves import write_halves
from export.manifest import Level, Quantization, SelfDraft


def int4_drafter(target: Level, folder: Path) -> Level:
    """The drafter that reads the high halves of the codes of ``target``, written to ``folder``."""
    assert target.native is not None, target.name
    return replace(
        target,
        name=f"{target.name}-int4",
        role="drafter",
        quantization=Quantization("int4", target.quantization.block_size, target.quantization.method),
        graphs={},
        weight_bytes=0,
        sparse_bytes=0,
        check=None,
        kv_effects={},
        taps=(),
        left_out={},
        native=write_halves(folder, target.native),
        self_draft=SelfDraft("halves"),
    )
