"""Turns a request (``Speculation``) into what the decoding loop needs: drafters, a scheduler, an acceptance rule."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.manifest import (
    DRAFT_TABLE_NAME,
    Level,
    Manifest,
    ParallelDrafts,
    PocketspecError,
    levels_in_parallel,
    parallel_levels,
)
from memory.costs import MeasuredCosts
from memory.drafter_spec import DrafterSpec, parse_drafter
from memory.layer_states import why_no_trees
from memory.plan import DraftPlan
from runtime.bundle.draft_table import DraftTable
from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.acceptance.recursive import RecursiveVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.acceptance.synthetic import SyntheticVerifier
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import DraftLimit, chain_limit, tree_limit
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import Drafter, Drafters, DraftsAhead, Scheduler, Verifier
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.drafters.factory import make_drafter
from runtime.drafters.forced import ForcedDrafter
from runtime.drafters.head_stack import OpenStack
from runtime.drafters.prediction_head import HeadReader
from runtime.drafters.registry import GRAMMAR, registered, require_free
from runtime.drafters.suffix import OtherTexts
from runtime.drafters.window import window_of, window_size
from runtime.errors import DraftError
from runtime.models.ort_model import OrtModel
from runtime.scheduler.available import KINDS, Kind, Stage, make_methods
from runtime.scheduler.cost_based import CostScheduler
from runtime.scheduler.fixed import FixedScheduler, PlannedScheduler
from runtime.scheduler.forecast import Room
from runtime.scheduler.latency import LatencyEstimates
from runtime.scheduler.learned_state import LearnedState, Prospect
from runtime.scheduler.methods import DecodingMethod
from runtime.speculation.forced_first import ForcedFirst
from runtime.speculation.request import AUTO, NEED_DRAWN, NONE, SHAPES, Speculation, check_drafter

# Rows that an intermediate may have to read before those of a draft: its own last token and the target's.
_PENDING_ROWS = 2

VERIFIERS: Mapping[str, Callable[[], Verifier]] = {
    "greedy": GreedyVerifier,
    "match": MatchVerifier,
    "block": BlockVerifier,
    "recursive": RecursiveVerifier,
}


@dataclass(frozen=True)
class Strategy:
    """The arguments of the decoding loop for one answer. The loop calls ``drop`` when a drafter fails."""

    drafters: Drafters
    scheduler: Scheduler
    verifier: Verifier
    drop: Callable[[DraftError], None]


class Speculator:
    """Makes strategies for ``target``, and keeps them within the present plan and the levels that are open.

    Each drafter is made once and keeps what it has learned or cached until the plan changes. What the scheduler has
    learned about drafters outlives changes of the plan. ``costs`` is called when the costs of this device are first
    needed. ``notify`` gets a line when a drafter fails. ``table`` is the bundle's, if it has one.
    """

    def __init__(
        self,
        target: OrtModel,
        levels: Mapping[str, OrtModel],
        planned: DraftPlan,
        manifest: Manifest,
        costs: Callable[[], MeasuredCosts],
        notify: Callable[[str], None] = lambda line: None,
        table: DraftTable | None = None,
    ) -> None:
        self.target, self.levels, self.planned = target, dict(levels), planned
        self._manifest, self._costs, self._notify = manifest, costs, notify
        # Levels whose logits were not finite; they count as not open.
        self._dropped: set[str] = set()
        self.parallel = parallel_levels(manifest)
        self.calibrations = {level.name: ConfidenceCalibration() for level in manifest.levels}
        self._drafters: dict[tuple[str, bool], Drafter] = {}
        self._heads: dict[str, HeadReader] = {}
        self._added: dict[str, Drafter] = {}
        self._forced = ForcedDrafter()
        self._latency: LatencyEstimates | None = None
        self._learned_states: dict[tuple[bool, str, Kind | None], LearnedState] = {}
        self._latest: LearnedState | None = None
        self._simulated: SyntheticVerifier | None = None
        self.inner_rule: SyntheticVerifier | None = None
        self.suffix_store: OtherTexts | None = None
        self.table = table

    def add(self, drafter: Drafter) -> None:
        """Makes a drafter of the caller's known by its name; PocketspecError if that means another one already."""
        require_free(drafter.name)
        self._added[drafter.name] = drafter

    def use(self, levels: Mapping[str, OrtModel], planned: DraftPlan) -> None:
        """Follows another plan from the next step on: drafts within ``planned``, by the open ``levels``."""
        for drafter in (*self._drafters.values(), *self._added.values()):
            if isinstance(drafter, DraftsAhead):
                drafter.settle()
        self.levels = {name: model for name, model in levels.items() if name not in self._dropped}
        self.planned = planned
        self._drafters.clear()
        self._heads.clear()

    def drop(self, error: DraftError) -> None:
        """Stops drafting with the level that failed with ``error``; notifies the user once."""
        level = parse_drafter(error.drafter).singles[-1]
        if level not in self._dropped:
            self._dropped.add(level)
            self._notify(f"{error}; answers go on without {level}, and their text is the same")
        self.use(self.levels, self.planned)

    def close(self) -> None:
        """Ends the threads of drafters, and drops every reference to a model."""
        self.use({}, DraftPlan("chain", 0))
        self._added.clear()
        self._learned_states.clear()
        self._latest = self._latency = None

    def prospects(self) -> list[Prospect]:
        """Forecast and result of each decoding method in the latest answer, best first; empty without a choice."""
        return self._latest.prospects() if self._latest is not None else []

    def strategy(self, speculation: Speculation, sampling: SamplingParams, context: Context) -> Strategy:
        """The strategy for one answer, whose text ``context`` will hold.

        PocketspecError for a request that contradicts itself, or that the plan or the bundle does not allow.
        """
        acceptance = _acceptance(speculation, sampling)
        verifier, drawn = self._simulated or VERIFIERS[acceptance](), acceptance in NEED_DRAWN
        self._latest, name = None, speculation.drafter
        if name == NONE or speculation.only == "plain" or not self.planned.nodes:
            return Strategy({}, FixedScheduler(), verifier, self.drop)
        self._check(speculation)
        scheduler: Scheduler
        if name != AUTO:
            known = {*self.levels, *self._dropped}
            spec = check_drafter(name, known, "is open", self._added, self._manifest.files)
            self._check_judges(spec)
            self._refuse_overlap(spec)
        self._open_heads(name)
        leaves_size = speculation.draft_size is None and speculation.limit is None
        if name == AUTO or (leaves_size and self._is_forecast(name)):
            scheduler = self._cost_scheduler(speculation, acceptance, sampling.temperature > 0, context)
        else:
            scheduler = FixedScheduler(name, self._limit(speculation, name))
        named = _DraftersByName(lambda wanted: self.drafter(wanted, drawn))
        scheduler = ForcedFirst(PlannedScheduler(scheduler, self._max_nodes), context, lambda: self.planned.nodes)
        return Strategy(named, scheduler, verifier, self.drop)

    def simulate(self, target: Sequence[float], intermediate: Sequence[float] | None) -> None:
        """Simulates acceptance from now on: ``target`` has the target's chance to accept a token at each depth.

        ``intermediate`` has an intermediate's; None: it verifies as usual. The text is meaningless then.
        """
        self._simulated = SyntheticVerifier(target)
        self.inner_rule = None if intermediate is None else SyntheticVerifier(intermediate, level=1)
        self._drafters.clear()

    def head(self, level: str) -> HeadReader | None:
        """The reader of a level if it is a prediction head, made once. KeyError if that is not open."""
        described = self._manifest.level(level)
        if not described.reads or self._is_stack(described):
            return None
        if level not in self._heads:
            columns, first = self._columns(described), described.first_token
            self._heads[level] = HeadReader(self.levels[level], self.target.cache, columns, first)
        return self._heads[level]

    def stack(self, level: str) -> OpenStack | None:
        """A level if it is a stack of heads that one forward computes. KeyError if that is not open."""
        described = self._manifest.level(level)
        if described.heads is None or not self._is_stack(described):
            return None
        return OpenStack(self.levels[level], self.target.cache, self._columns(described), described.heads.count)

    @staticmethod
    def _is_stack(level: Level) -> bool:
        return level.heads is not None and level.heads.together

    def _columns(self, level: Level) -> npt.NDArray[np.int64]:
        """The columns of the target's hidden rows that a level reads."""
        target = self._manifest.target
        size = target.shape.hidden_size
        return np.concatenate([np.arange(size) + target.taps.index(tap) * size for tap in level.reads])

    def longest(self, level: str) -> float:
        """The most tokens of a draft of a level."""
        return self._manifest.level(level).longest

    def _open_heads(self, drafter: str) -> None:
        """Makes the readers of the heads that may draft in the next answer, so that they read its prompt with it."""
        wanted = self.levels if drafter == AUTO else parse_drafter(drafter).singles
        for level in self.levels:
            if level in wanted:
                self.head(level)

    def _latency_estimates(self) -> LatencyEstimates:
        if self._latency is None:
            self._latency = LatencyEstimates(
                self._costs(), self._manifest.target.name, self.target.padded, levels_in_parallel(self._manifest)
            )
        return self._latency

    def methods(self, only: Kind | None = None) -> list[DecodingMethod]:
        """The decoding methods that the bundle has, with nothing learned yet."""
        below = [level for level in self._manifest.levels if level.role != "target"]
        own = weakref.proxy(self)  # methods are kept in ``self``; a reference back would be a cycle
        stage = Stage(
            below,
            self.calibrations,
            lambda level: own._room_of(level),
            lambda level: own._has_own_cores(level),
            self._manifest.files,
        )
        return make_methods(stage, only)

    def _is_forecast(self, name: str) -> bool:
        """Whether there is a decoding method that forecasts the drafter called ``name``."""
        return any(method.drafter == name for method in self.methods())

    def _has_own_cores(self, level: str) -> bool:
        """Whether a level is bound to cores that the target is not bound to."""
        model = self.levels.get(level)
        return (
            model is not None
            and not model.borrows
            and bool(model.cores and self.target.cores)
            and not set(model.cores) & set(self.target.cores)
        )

    def _cost_scheduler(
        self, speculation: Speculation, acceptance: str, sampled: bool, context: Context
    ) -> CostScheduler:
        only = speculation.only or ("tree" if speculation.shape == "tree" else None)
        if only is not None and only not in KINDS:
            raise PocketspecError(f"no kind of drafts {only!r}; there are: {', '.join(KINDS)}")
        name, latency = speculation.drafter, self._latency_estimates()
        key = (sampled, name, only)
        if key not in self._learned_states:
            methods = [each for each in self.methods(only) if name in (AUTO, each.drafter)]
            self._learned_states[key] = LearnedState(methods, latency)
        self._latest = self._learned_states[key]
        trees = self._takes_trees(speculation) and speculation.shape != "chain" and acceptance != "block"
        return CostScheduler(self._latest, _CurrentSituation(self, context, speculation.draft_size, trees))

    def _refuse_overlap(self, spec: DrafterSpec) -> None:
        """PocketspecError if ``spec`` drafts with the target's own cache while the target runs."""
        shared = [level for level in spec.singles if (model := self.levels.get(level)) and model.borrows]
        if spec.kind == "overlapped" and shared:
            raise PocketspecError(
                f"drafter {spec.name!r}: {shared[0]} shares the target's KV cache and cannot draft while the target"
                f" runs; ask for {spec.parts[0].name}"
            )

    def _takes_trees(self, speculation: Speculation) -> bool:
        """Whether trees may be drafted: if they are exact, or as exact as chains are here, or explicitly asked for.

        Where rows of trees and chains differ in their last bits, trees are exact only up to near ties.
        """
        widths = self.target.widths
        return widths.tree or not widths.exact or speculation.asks_for_trees

    def _room_of(self, middle: str) -> Room:
        """The largest draft that an intermediate can verify in one forward; none if it is not open."""
        model = self.levels.get(middle)
        if model is None:
            return Room(0, False)
        return Room(model.max_rows - 1 - _PENDING_ROWS, model.takes_trees)

    def _max_nodes(self, name: str) -> int:
        """The most nodes that the drafter called ``name`` may draft now; 0 if one of its models is not open."""
        is_open = all(part in self._known_names for part in parse_drafter(name).singles)
        return self.planned.nodes if is_open else 0

    @property
    def _known_names(self) -> Collection[str]:
        """The single drafters that exist now, by name."""
        return {*self.levels, *registered(self._manifest.files), *self._added}

    def drafter(self, name: str, drawn: bool) -> Drafter:
        """The drafter called ``name``; ``drawn``: its drafts carry distributions. KeyError if a level is not open."""
        if name == GRAMMAR:
            return self._forced
        if name in self._added:
            return self._added[name]
        key = (name, drawn)
        if key not in self._drafters:
            self._drafters[key] = make_drafter(parse_drafter(name), _OpenResources(self, drawn))
        return self._drafters[key]

    def _limit(self, speculation: Speculation, name: str) -> DraftLimit:
        """The limit for drafts of a drafter that was asked for by name."""
        if speculation.limit is not None:
            return speculation.limit
        planned, size = self.planned, speculation.draft_size
        chains = speculation.acceptance == "block" or parse_drafter(name).drafts_chains_only
        chains = chains or not self._takes_trees(speculation)
        shape = speculation.shape or ("chain" if chains else planned.shape)
        usual = registered()[name].longest if name in registered() else planned.nodes
        nodes = min(size or usual, planned.nodes)
        return tree_limit(nodes) if shape == "tree" else chain_limit(nodes)

    def _check_judges(self, spec: DrafterSpec) -> None:
        """PocketspecError if a level would verify drafts that has no logits for some of their tokens."""
        for judge in spec.judges:
            if self._manifest.level(judge).draft_vocabulary is not None:
                raise PocketspecError(
                    f"drafter {spec.name!r}: {judge} cannot judge what is drafted below it, since its head was cut to a"
                    " part of the vocabulary; put a whole model there"
                )

    def _check(self, speculation: Speculation) -> None:
        """PocketspecError for drafts that the target cannot verify, or that the plan has no room for."""
        reading = {level.name for level in self._manifest.levels if level.reads}
        if speculation.drafter != AUTO:
            for name in parse_drafter(speculation.drafter).apart_from_target:
                if name in reading:
                    raise PocketspecError(
                        f"drafter {speculation.drafter!r}: {name} reads hidden rows of the target, which are not there"
                        f" ahead of it or below an intermediate; ask for {name} alone"
                    )
        limit, planned = speculation.limit, self.planned
        shape, size = (limit.shape, limit.nodes) if limit else (speculation.shape, speculation.draft_size)
        if shape not in (None, *SHAPES):
            raise PocketspecError(f"no draft shape {shape!r}; there are: {', '.join(SHAPES)}")
        if shape == "tree" and not self.target.takes_trees:
            reason = why_no_trees(self._manifest.target)
            other = f": {reason}" if reason else ", or export it again"
            raise PocketspecError(f"this bundle's target cannot verify trees; ask for shape chain{other}")
        if shape == "tree" and planned.shape == "chain":
            raise PocketspecError("the plan has no room for trees; open the bundle with shape tree, or ask for a chain")
        if shape == "tree" and parse_drafter(speculation.drafter).judges:
            raise PocketspecError(
                f"drafter {speculation.drafter!r} drafts chains; ask for shape chain, or for a drafter alone"
            )
        if speculation.acceptance == "block" and shape == "tree":
            raise PocketspecError("acceptance 'block' judges chains; ask for shape chain, or for acceptance recursive")
        if size is not None and not 1 <= size <= planned.nodes:
            raise PocketspecError(
                f"a draft size of {size}; the plan allows 1 to {planned.nodes}: open the bundle with a larger one"
            )


class _DraftersByName:
    """``Drafters`` that are looked up at every step: a model may be closed and opened again between two steps."""

    def __init__(self, find: Callable[[str], Drafter]) -> None:
        self._find = find

    def __getitem__(self, name: str) -> Drafter:
        return self._find(name)


class _OpenResources:
    """``DrafterResources`` of the levels that ``speculator`` has open."""

    def __init__(self, speculator: Speculator, drawn: bool) -> None:
        self._speculator, self.drawn = speculator, drawn
        self.vocab_size = speculator.target.vocab_size
        self.inner_rule: Verifier | None = speculator.inner_rule

    def model(self, level: str) -> OrtModel:
        """See ``DrafterResources``."""
        return self._speculator.levels[level]

    def cores(self, level: str) -> tuple[int, ...]:
        """See ``DrafterResources``."""
        model = self._speculator.levels.get(level)
        return () if model is None else tuple(model.cores)

    def calibration(self, level: str) -> ConfidenceCalibration:
        """See ``DrafterResources``."""
        return self._speculator.calibrations[level]

    def parallel(self, level: str) -> ParallelDrafts | None:
        """See ``DrafterResources``."""
        return self._speculator.parallel.get(level)

    def head(self, level: str) -> HeadReader | None:
        """See ``DrafterResources``."""
        return self._speculator.head(level)

    def stack(self, level: str) -> OpenStack | None:
        """See ``DrafterResources``."""
        return self._speculator.stack(level)

    def longest(self, level: str) -> float:
        """See ``DrafterResources``."""
        return self._speculator.longest(level)

    @property
    def other_texts(self) -> OtherTexts | None:
        """See ``DrafterResources``."""
        return self._speculator.suffix_store

    @property
    def table(self) -> DraftTable:
        """See ``DrafterResources``."""
        if self._speculator.table is None:
            raise KeyError(DRAFT_TABLE_NAME)
        return self._speculator.table

    def logit_tokens(self, level: str) -> Ids | None:
        """See ``DrafterResources``."""
        return self._speculator.levels[level].logit_tokens

    def drafter(self, spec: DrafterSpec) -> Drafter:
        """See ``DrafterResources``."""
        return self._speculator.drafter(spec.name, self.drawn)


class _CurrentSituation:
    """The ``Situation`` of the scheduler of one answer, read between two steps.

    ``most`` bounds the nodes of a draft; None: the plan alone does. ``trees``: whether trees may be drafted.
    """

    def __init__(self, speculator: Speculator, context: Context, most: int | None, trees: bool) -> None:
        self._speculator, self._context, self._max_nodes, self._trees = speculator, context, most, trees

    def room(self) -> Room:
        """See ``Situation``."""
        planned = self._speculator.planned
        trees = self._trees and planned.shape == "tree" and self._speculator.target.takes_trees
        return Room(planned.nodes if self._max_nodes is None else min(self._max_nodes, planned.nodes), trees)

    def length(self) -> int:
        """See ``Situation``."""
        return len(self._context)

    def behind(self, level: str) -> int | None:
        """See ``Situation``."""
        model = self._speculator.levels.get(level)
        if model is None:
            return None
        if self._speculator.stack(level) is not None:
            return 0
        if (reader := self._speculator.head(level)) is not None:
            return reader.behind(self._context.tokens)
        tokens = window_of(self._context.tokens, max(2, window_size(model, self._context.capacity)))
        return len(tokens) - shared_prefix(model.cache.tokens, tokens)


def _acceptance(speculation: Speculation, sampling: SamplingParams) -> str:
    """The name of the acceptance rule; PocketspecError if it does not suit the sampling."""
    name = speculation.acceptance
    if name is None:
        return "match" if sampling.temperature > 0 else "greedy"
    if name not in VERIFIERS:
        raise PocketspecError(f"no acceptance rule {name!r}; there are: {', '.join(VERIFIERS)}")
    if name == "greedy" and sampling.temperature > 0:
        raise PocketspecError(f"acceptance 'greedy' needs temperature 0, not {sampling.temperature}; ask for match")
    if name in NEED_DRAWN and sampling.temperature == 0:
        raise PocketspecError(f"acceptance {name!r} needs a temperature above 0; at 0 it is greedy")
    return name
