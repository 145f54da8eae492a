"""The contenders of a conversation, by their names: what is planned, and what is the default elsewhere."""

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
from runtime.bench.conversation.measure import Contender
from runtime.kernels.selection import Chooser, Wanted
from runtime.models.loader import Levels
from runtime.speculation.request import PLAIN, Speculation, levels_below, needed_levels

# Rows of a prompt that run at once, and nodes of a draft, where nobody plans: llama.cpp's default batch is 512, the
# smallest tree that Medusa ships has 15 nodes.
DEFAULT_CHUNK = 512
DEFAULT_NODES = 15
# No limit on what is allocated at once.
_ENDLESS = 1 << 60


@dataclass(frozen=True)
class Setting:
    """What all contenders share: ``request`` has budget, context and turns, ``drafter`` names who drafts."""

    bundle: Path
    manifest: Manifest
    device: Device
    request: Request
    drafter: str
    kernels: Wanted = "auto"


def make_contenders(names: Sequence[str], setting: Setting) -> list[Contender]:
    """Contenders from their names, with their plans; PocketspecError says how names are made."""
    chooser = Chooser(setting.kernels, lambda line: None)
    residences = Levels(setting.bundle, setting.manifest, chooser, lambda line: None).expected_residences()
    setting = replace(setting, device=replace(setting.device, residences=residences))
    # Other KV types say other things, so all contenders have the planner's.
    kv_type = _planned("planned", setting, None, None).plan.target.kv_type
    setting = replace(setting, request=replace(setting.request, kv_type=kv_type))
    return [_make_contender(name, setting) for name in names]


def _make_contender(name: str, setting: Setting) -> Contender:
    if name == "plain":
        request = replace(setting.request, drafters=(), nodes=0)
        return Contender(name, make_plan(setting.manifest, setting.device, request), PLAIN)
    match = re.fullmatch(r"(planned|unplanned)(?:-(chain|tree)(\d+))?", name)
    if not match:
        raise PocketspecError(
            f"no contender {name!r}; write planned, unplanned, plain, or planned and unplanned with a shape and a size"
            " of drafts, such as unplanned-chain3"
        )
    nodes = int(match[3]) if match[3] else None
    shape: Shape | None = "chain" if match[2] == "chain" else "tree" if match[2] else None
    return (_planned if match[1] == "planned" else _unplanned)(name, setting, shape, nodes)


def _planned(name: str, setting: Setting, shape: Shape | None, nodes: int | None) -> Contender:
    """The planner's choice of everything that the request leaves open."""
    shape = shape or ("chain" if parse_drafter(setting.drafter).drafts_chains_only else None)
    request = replace(setting.request, drafters=_drafters(setting), shape=shape, nodes=nodes)
    plan = make_plan(setting.manifest, setting.device, request)
    return Contender(name, plan, Speculation(setting.drafter, shape=shape))


def _unplanned(name: str, setting: Setting, shape: Shape | None, nodes: int | None) -> Contender:
    """Everything at once, as much as the models can have of it."""
    trees = setting.manifest.target.tree and not parse_drafter(setting.drafter).drafts_chains_only
    shape, nodes = shape or ("tree" if trees else "chain"), nodes or DEFAULT_NODES
    request = replace(
        setting.request,
        context=setting.manifest.target.shape.positions,
        up_to=False,
        budget_bytes=None,
        drafters=_drafters(setting),
        shape=shape,
        nodes=nodes,
        prefill_chunk=DEFAULT_CHUNK,
    )
    device = replace(setting.device, total_bytes=_ENDLESS, available_bytes=_ENDLESS)
    plan = make_plan(setting.manifest, device, request)
    return Contender(name, plan, Speculation(setting.drafter, nodes, shape), planned=False)


def _drafters(setting: Setting) -> tuple[str, ...] | None:
    return needed_levels(setting.drafter, levels_below(setting.manifest))
