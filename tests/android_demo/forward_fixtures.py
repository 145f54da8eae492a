"""What forwards of a bundle's target give, for the Kotlin engine to give the same, bit for bit.

The operations are in order (prefill, forward, rollback), with a hash of the logits after each forward. Every KV type is
one run, with native kernels, whose bits are those of any processor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from export.manifest import Manifest, read_manifest
from memory.choices import Request
from memory.plan import Plan
from memory.plan_table import OWN_MEASURED, table_device
from memory.planner import make_plan
from runtime.kernels.selection import Chooser
from runtime.models.loader import Levels
from runtime.models.ort_model import OrtModel

_CONTEXT, _NODES, _PROMPT = 512, 15, 150
# Two candidates for the first token, and paths below both: rows of the accepted path are not adjacent.
_TREE = (-1, 0, 0, 1, 2, 2, 4, 6)


def forwards(bundle: Path) -> dict[str, Any]:
    """The runs by KV type."""
    manifest = read_manifest(bundle)
    native = manifest.target.native
    kinds = native.graphs if native is not None else {}
    return {"context": _CONTEXT, "runs": {kind: list(_run(bundle, manifest, kind)) for kind in kinds}}


def _plan(manifest: Manifest, kv_type: str) -> Plan:
    """A plan of the target alone, with trees."""
    device = table_device(manifest, "native", OWN_MEASURED, 1)
    request = Request(context=_CONTEXT, threads=1, shape="tree", nodes=_NODES, kv_type=kv_type, prefill_chunk=64)
    plan = make_plan(manifest, device, request)
    return replace(plan, levels=plan.levels[:1])


def _run(bundle: Path, manifest: Manifest, kv_type: str) -> Iterator[dict[str, Any]]:
    levels = Levels(bundle, manifest, Chooser("native"), print)
    model = levels.open_target(_plan(manifest, kv_type))
    try:
        yield from _operations(model)
    finally:
        model.close()


def _operations(model: OrtModel) -> Iterator[dict[str, Any]]:
    """A prompt in chunks, plain steps, a chain, a rollback, a tree whose path is compacted, and steps behind it."""
    random = Random(7)

    def tokens(count: int) -> list[int]:
        return random.choices(range(model.vocab_size), k=count)

    yield _prefill(model, tokens(_PROMPT))
    yield _forward(model, tokens(1))
    yield _forward(model, tokens(5))
    yield _rollback(model, _PROMPT + 3)
    yield _forward(model, tokens(len(_TREE)), _TREE)
    yield _rollback(model, _PROMPT + 3, (0, 2, 4, 6))
    yield _forward(model, tokens(3), logits_from=2)
    yield _rollback(model, 70)
    yield _prefill(model, tokens(64))
    yield _forward(model, tokens(_NODES + 1))


def _prefill(model: OrtModel, tokens: list[int]) -> dict[str, Any]:
    model.prefill(tokens)
    return {"op": "prefill", "tokens": tokens}


def _forward(
    model: OrtModel, tokens: list[int], parents: Sequence[int] | None = None, logits_from: int = 0
) -> dict[str, Any]:
    logits = model.forward(tokens, parents, logits_from).logits
    digest = hashlib.sha256(np.ascontiguousarray(logits, "<f4").tobytes()).hexdigest()
    return {"op": "forward", "tokens": tokens, "parents": parents, "from": logits_from, "sha256": digest}


def _rollback(model: OrtModel, length: int, rows: Sequence[int] = ()) -> dict[str, Any]:
    kept = [length + row for row in rows]
    model.cache.rollback(length, kept)
    return {"op": "rollback", "length": length, "kept": kept}
