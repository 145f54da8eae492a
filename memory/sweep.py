"""Plans for one bundle that differ in everything that predicted bytes depend on, for comparing with measurements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from export.manifest import Manifest
from memory.choices import PlanInputs, Request
from memory.device import Device
from memory.plan import Plan, Shape
from memory.planner import make_plan

_LARGEST = 4096


@dataclass(frozen=True)
class _Setting:
    """What one plan has: ``share`` of the positions as context, and no drafter model if ``alone``."""

    kv_type: str
    share: float
    shape: Shape
    nodes: int
    chunk: int
    alone: bool = False


_SETTINGS = (
    _Setting("fp32", 1.0, "chain", 3, 128),
    _Setting("fp32", 0.5, "tree", 15, 64),
    _Setting("fp16", 1.0, "tree", 7, 32),
    _Setting("fp16", 0.25, "chain", 7, 256, alone=True),
    _Setting("int8", 1.0, "chain", 1, 128),
    _Setting("int8", 0.5, "chain", 0, 16, alone=True),
    _Setting("int4", 1.0, "tree", 15, 256),
    _Setting("int4", 0.25, "chain", 3, 64, alone=True),
)


def sweep_plans(manifest: Manifest, device: Device, request: Request) -> Iterator[Plan]:
    """Plans for both kinds of kernels if the bundle has both forms, with every KV type that it has graphs for."""
    longest = min(manifest.target.shape.positions, _LARGEST)
    for kernels in ("native", "portable") if manifest.target.native is not None else ("portable",):
        here = replace(device, kernels=kernels)
        known = PlanInputs(manifest, here, request).kv_types(manifest.target.name)
        for setting in _SETTINGS:
            if setting.kv_type in known:
                wanted = replace(
                    request,
                    context=int(longest * setting.share),
                    budget_bytes=None,
                    drafters=() if setting.alone else request.drafters,
                    kv_type=setting.kv_type,
                    shape=setting.shape,
                    nodes=setting.nodes,
                    prefill_chunk=setting.chunk,
                )
                yield make_plan(manifest, here, wanted)
