"""What the user asks for (``Request``), what the planner decides (``Choices``), and what it decides from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from export.manifest import Level, Manifest, PocketspecError
from memory.device import Device, Residence
from memory.layer_states import why_no_trees
from memory.plan import Placement, Shape

Allowed = Literal["precision", "context", "disk"]
ALLOWED: tuple[Allowed, ...] = get_args(Allowed)

DEFAULT_CONTEXT = 4096
MIN_CONTEXT = 2
MAX_NODES = 63
# Sizes of drafts that are considered, in nodes, the largest first.
TREE_SIZES = (15, 11, 7, 3)
CHAIN_SIZES = (12, 9, 7, 5, 4, 3, 2, 1)
# Nodes of the drafts that an intermediate judges. They may be many, since it costs less than the target.
INNER_NODES = 15
# Rows of a prompt that run at once. Chunks larger than the first are no faster on the processors at hand (1.5B shape,
# AVX2: 128 tokens/s in chunks of 32, 128 and 256).
PREFILL_CHUNKS = (128, 64, 32, 16)
# With less to read, one thread is done before several have met.
_SMALL_BYTES = 8 << 20


@dataclass(frozen=True)
class Request:
    """What the user asks for. None lets the plan decide.

    ``context``: tokens of prompt and answers together, in a conversation of ``turns`` turns. None means 4,096 or the
    target's positions if those are fewer, and less if only that fits. ``up_to``: the context may be smaller, and the KV
    cache grows as it is used.
    ``budget_bytes``: the most memory; None means what the device has, less a margin.
    ``drafters``: names of the levels that may be loaded beside the target. None means all drafters, and an intermediate
    where it pays.
    ``shape`` and ``nodes``: of the largest draft; 0 nodes are plain decoding. ``kv_type``: of the target's KV cache.
    ``prefill_chunk``: rows of a prompt that run at once.
    ``placements``: by the name of a level or by its role, what of the device it runs on; other levels have ``threads``.
    ``fixed_width``: every step of the target runs as many rows as the largest draft has, for devices whose programs are
    compiled for one size.
    ``kept_conversations``: how many conversations beside the current one keep their KV rows, or fewer if memory is
    short. ``application_bytes``: anonymous memory that the program around the engine takes in the same process.
    ``constrained``: answers may be kept to a schema, a regular expression or a grammar, which takes memory.
    ``suffix_store_bytes``: what texts of earlier conversations may take, for the suffix drafter.
    ``may_give_up``: what the plan may give up that it otherwise keeps. "precision": KV types that cost the target
    measurably in perplexity; "context"; "disk": weights that do not fit are read from disk in every step.
    """

    context: int | None = None
    turns: int = 1
    up_to: bool = False
    budget_bytes: int | None = None
    drafters: tuple[str, ...] | None = None
    shape: Shape | None = None
    nodes: int | None = None
    kv_type: str | None = None
    prefill_chunk: int | None = None
    threads: int | None = None
    placements: Mapping[str, Placement] = field(default_factory=dict, hash=False)
    fixed_width: bool = False
    kept_conversations: int = 0
    application_bytes: int = 0
    constrained: bool = False
    suffix_store_bytes: int = 0
    may_give_up: frozenset[Allowed] = frozenset()

    @property
    def may_shrink(self) -> bool:
        """Whether the plan may have a smaller context than the request."""
        return self.context is None or self.up_to or "context" in self.may_give_up


@dataclass(frozen=True)
class Choices:
    """What the planner decides: one rung of the ladder, from which a plan is computed.

    ``drafters`` are the levels loaded beside the target. Their KV caches, of ``drafter_kv_type``, hold the last
    ``window`` tokens of the conversation. ``kept_conversations`` others keep the target's KV rows. With ``nodes`` 0
    decoding is plain; with nodes and without ``drafters`` the suffix drafter drafts alone.
    """

    context: int
    shape: Shape
    nodes: int
    drafters: tuple[str, ...]
    window: int
    drafter_kv_type: str
    kv_type: str
    prefill_chunk: int
    kept_conversations: int = 0


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made from and cannot change: the bundle, the device and the request."""

    manifest: Manifest
    device: Device
    request: Request

    @cached_property
    def levels(self) -> dict[str, Level]:
        """The bundle's levels by name."""
        return {level.name: level for level in self.manifest.levels}

    def residence(self, name: str) -> Residence:
        """How the weights of level ``name`` will lie in memory."""
        native = self.device.kernels == "native" and self.levels[name].native is not None
        return self.device.residences.get(name, "native" if native else "prepacked")

    def can_run(self, name: str) -> bool:
        """Whether level ``name`` can run: a part of the target needs native kernels for both."""
        beside = {name, self.manifest.target.name}
        return self.levels[name].self_draft is None or all(self.residence(one) == "native" for one in beside)

    def kv_types(self, name: str) -> tuple[str, ...]:
        """The KV types that level ``name`` has graphs for, the most exact first."""
        level = self.levels[name]
        graphs = level.native.graphs if level.native is not None and self.residence(name) == "native" else level.graphs
        return tuple(kind for kind in ("fp32", "fp16", "int8", "int4") if kind in graphs)

    def placement(self, name: str) -> Placement:
        """Where level ``name`` runs: as asked for its name, else for its role."""
        placements = self.request.placements
        return placements.get(name) or placements.get(self.levels[name].role) or Placement()

    def threads(self, name: str) -> int:
        """Threads that work on one operator of level ``name``."""
        if self.device.one_caller and self.levels[name].weight_bytes < _SMALL_BYTES:
            return 1
        return self.placement(name).threads_of(self.request.threads) or self.device.cores


def wanted_context(manifest: Manifest, request: Request) -> int:
    """The context to begin with: as asked for, or the default. Where less will do, the target's positions bound it."""
    positions = manifest.target.shape.positions
    if request.context is None:
        return min(DEFAULT_CONTEXT, positions)
    return min(request.context, positions) if request.up_to else request.context


def check_request(inputs: PlanInputs) -> None:
    """PocketspecError for a request that no amount of memory can satisfy."""
    manifest, request, target = inputs.manifest, inputs.request, inputs.manifest.target
    context, positions = wanted_context(manifest, request), target.shape.positions
    if not MIN_CONTEXT <= context <= positions:
        raise PocketspecError(
            f"a context of {context} tokens is outside {MIN_CONTEXT}..{positions}, what {target.name} was made for;"
            f" ask for at most {positions}"
        )
    if not 1 <= request.turns <= context // MIN_CONTEXT:
        raise PocketspecError(
            f"{request.turns} turns do not fit a context of {context} tokens; ask for 1 to {context // MIN_CONTEXT}"
        )
    for name in ("kept_conversations", "application_bytes", "suffix_store_bytes"):
        if getattr(request, name) < 0:
            raise PocketspecError(f"{name} is {getattr(request, name)}; it must be at least 0")
    if request.nodes is not None and not 0 <= request.nodes <= MAX_NODES:
        raise PocketspecError(
            f"a draft size of {request.nodes}: allowed are 1 to {MAX_NODES}, and 0 for plain decoding"
        )
    if request.shape == "tree" and (reason := why_no_trees(target)) is not None:
        raise PocketspecError(f"no trees: {reason}; ask for shape chain")
    _check_names((request.kv_type,), inputs.kv_types(target.name), f"no KV type of {target.name}; it has")
    _check_names(request.may_give_up, ALLOWED, "nothing that can be given up; there are")
    beside = [level.name for level in manifest.levels if level.role != "target"]
    _check_names(request.drafters or (), beside, "no drafter of this bundle; it has")
    for name in request.drafters or ():
        if not inputs.can_run(name):
            raise PocketspecError(f"{name} is part of {target.name} and runs with native kernels alone; leave it out")
    roles = [level.role for level in manifest.levels]
    _check_names(request.placements, dict.fromkeys((*inputs.levels, *roles)), "no level of this bundle; it has")
    for name, placement in request.placements.items():
        _check_placement(name, placement)


def _check_placement(name: str, placement: Placement) -> None:
    threads, cores = placement.threads, placement.cores
    if threads is not None and threads < 1:
        raise PocketspecError(f"{threads} threads for {name}: it must be at least 1")
    if min(cores, default=0) < 0 or len(set(cores)) < len(cores):
        numbers = ", ".join(map(str, cores))
        raise PocketspecError(f"cores {numbers} for {name}: name each core once, by the number the system gives it")


def _check_names(given: Iterable[str | None], known: Iterable[str], what: str) -> None:
    for name in given:
        if name is not None and name not in known:
            raise PocketspecError(f"{name!r} is {what}: {', '.join(known) or 'none'}")
