"""The settings to hold a conversation in, made from their names: planned, and as is usual elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.manifest import Manifest, PocketspecError
from memory.choices import Request
from memory.device import Device
from memory.drafter_spec import parse_drafter
from memory.plan import Shape
from memory.planner import make_plan
from runtime.bench.conversation.measure import ConversationSetting
from runtime.kernels.selection import Chooser, Wanted
from runtime.models.loader import Levels
from runtime.speculation.request import PLAIN, Speculation, levels_below, needed_levels

# Without a plan: rows of a prompt in one forward (llama.cpp's default), and nodes of a draft (Medusa's smallest tree).
DEFAULT_CHUNK = 512
DEFAULT_NODES = 15
# Memory without a limit, in bytes.
_ENDLESS = 1 << 60


@dataclass(frozen=True)
class ConversationRequest:
    """What all settings share. ``request`` has budget, context and turns; ``drafter`` names the drafter."""

    bundle: Path
    manifest: Manifest
    device: Device
    request: Request
    drafter: str
    kernels: Wanted = "auto"


def make_settings(names: Sequence[str], asked: ConversationRequest) -> list[ConversationSetting]:
    """Settings from their names, with their plans; PocketspecError says how names are made."""
    chooser = Chooser(asked.kernels, lambda line: None)
    residences = Levels(asked.bundle, asked.manifest, chooser, lambda line: None).expected_residences()
    asked = replace(asked, device=replace(asked.device, residences=residences))
    # The text depends on the KV type, so all settings have the one that the planner chooses.
    kv_type = _planned("planned", asked, None, None).plan.target.kv_type
    asked = replace(asked, request=replace(asked.request, kv_type=kv_type))
    return [_make_setting(name, asked) for name in names]


def _make_setting(name: str, asked: ConversationRequest) -> ConversationSetting:
    if name == "plain":
        request = replace(asked.request, drafters=(), nodes=0)
        return ConversationSetting(name, make_plan(asked.manifest, asked.device, request), PLAIN)
    match = re.fullmatch(r"(planned|unplanned)(?:-(chain|tree)(\d+))?", name)
    if not match:
        raise PocketspecError(
            f"no contender {name!r}; write planned, unplanned, plain, or planned and unplanned with a shape and a size"
            " of drafts, such as unplanned-chain3"
        )
    nodes = int(match[3]) if match[3] else None
    shape: Shape | None = "chain" if match[2] == "chain" else "tree" if match[2] else None
    return (_planned if match[1] == "planned" else _unplanned)(name, asked, shape, nodes)


def _planned(name: str, asked: ConversationRequest, shape: Shape | None, nodes: int | None) -> ConversationSetting:
    """A setting whose plan the planner makes for the request."""
    shape = shape or ("chain" if parse_drafter(asked.drafter).drafts_chains_only else None)
    request = replace(asked.request, drafters=_drafters(asked), shape=shape, nodes=nodes)
    plan = make_plan(asked.manifest, asked.device, request)
    return ConversationSetting(name, plan, Speculation(asked.drafter, shape=shape))


def _unplanned(name: str, asked: ConversationRequest, shape: Shape | None, nodes: int | None) -> ConversationSetting:
    """A setting that allocates everything at once, for as many positions as the models have."""
    trees = asked.manifest.target.tree and not parse_drafter(asked.drafter).drafts_chains_only
    shape, nodes = shape or ("tree" if trees else "chain"), nodes or DEFAULT_NODES
    request = replace(
        asked.request,
        context=asked.manifest.target.shape.positions,
        up_to=False,
        budget_bytes=None,
        drafters=_drafters(asked),
        shape=shape,
        nodes=nodes,
        prefill_chunk=DEFAULT_CHUNK,
    )
    device = replace(asked.device, total_bytes=_ENDLESS, available_bytes=_ENDLESS)
    plan = make_plan(asked.manifest, device, request)
    return ConversationSetting(name, plan, Speculation(asked.drafter, nodes, shape), planned=False)


def _drafters(asked: ConversationRequest) -> tuple[str, ...] | None:
    return needed_levels(asked.drafter, levels_below(asked.manifest))
