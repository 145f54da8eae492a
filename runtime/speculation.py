"""Who guesses and how guesses are judged: names a user knows, turned into drafter, scheduler and verifier."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from export.manifest import Manifest, PocketspecError
from memory.plan import DraftPlan, Shape
from runtime.decode import Drafters
from runtime.draft import DraftLimit, chain_limit, tree_limit
from runtime.drafters import Drafter
from runtime.drafters.fallback import FallbackDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.small import SmallDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.model import Model, OrtModel
from runtime.sampling import SamplingParams
from runtime.scheduler import Scheduler
from runtime.scheduler.fixed import FixedScheduler, PlannedScheduler
from runtime.verify import Verifier
from runtime.verify.block import BlockVerifier
from runtime.verify.greedy import GreedyVerifier
from runtime.verify.match import MatchVerifier
from runtime.verify.recursive import RecursiveVerifier

AUTO, NONE, SUFFIX = "auto", "none", "suffix"
JOIN = "+"
ABOVE = ">"

SHAPES: tuple[Shape, ...] = get_args(Shape)

# A suffix match is right for long stretches or not at all, and it says how far it trusts itself.
_SUFFIX_NODES = 7

VERIFIERS: Mapping[str, Callable[[], Verifier]] = {
    "greedy": GreedyVerifier,
    "match": MatchVerifier,
    "block": BlockVerifier,
    "recursive": RecursiveVerifier,
}
# The rules that use how a draft was drawn; other rules get the most probable tokens.
_NEED_DRAWN = ("block", "recursive")


@dataclass(frozen=True)
class Speculation:
    """How to speculate.

    ``drafter`` is "auto" (the bundle's first drafter, or else "suffix"), "none" (plain decoding), "suffix" (repetition
    in prompt and answer), the name of a drafter in the bundle, "LOWER>MIDDLE" (the model MIDDLE, itself sped up by
    LOWER; chains only), or several with plus signs ("suffix+NAME": the first that has something to say).
    ``draft_size`` is the most nodes of a draft; None, and ``shape`` None: as planned. ``limit`` says both at once, and
    what a level below may draft. ``acceptance`` None means greedy at temperature 0 and "match" above.
    """

    drafter: str = AUTO
    draft_size: int | None = None
    shape: Shape | None = None
    acceptance: str | None = None
    limit: DraftLimit | None = None

    @property
    def keeps_draws(self) -> bool:
        """Whether sampled answers equal plain ones with the same seed; the other rules keep the law alone."""
        return self.acceptance not in _NEED_DRAWN


PLAIN = Speculation(drafter=NONE)


@dataclass(frozen=True)
class Strategy:
    """What the decoding loop is given."""

    drafters: Drafters
    scheduler: Scheduler
    verifier: Verifier


class Speculator:
    """Makes strategies for one target, and keeps them within what is planned and open at the moment.

    Drafters are made once, so that what they have learnt or cached is kept as long as the plan does not change.
    """

    def __init__(self, target: Model, levels: Mapping[str, OrtModel], planned: DraftPlan) -> None:
        self._target, self._levels, self._planned = target, dict(levels), planned
        self._drafters: dict[tuple[str, bool], Drafter] = {}
        self._given: dict[str, Drafter] = {}

    def add(self, drafter: Drafter) -> None:
        """Makes a drafter of the caller's own known by its name."""
        self._given[drafter.name] = drafter

    def allow(self, levels: Mapping[str, OrtModel], planned: DraftPlan) -> None:
        """From the next step on drafts are those of ``planned``, by the drafter models ``levels``."""
        self._levels, self._planned = dict(levels), planned
        self._drafters.clear()

    def strategy(self, speculation: Speculation, sampling: SamplingParams) -> Strategy:
        """The strategy for one answer; PocketspecError for what cannot be."""
        acceptance = _acceptance(speculation, sampling)
        verifier = VERIFIERS[acceptance]()
        name = self.drafter_name(speculation.drafter)
        if name is None or not self._planned.nodes:
            return Strategy({}, FixedScheduler(), verifier)
        chains = acceptance == "block" or ABOVE in name
        shape = speculation.shape or ("chain" if chains else self._planned.shape)
        limit = speculation.limit or self._limit(speculation, shape, name)
        drawn = acceptance in _NEED_DRAWN
        scheduler = PlannedScheduler(FixedScheduler(name, limit), self._most)
        return Strategy(_Named(lambda wanted: self._drafter(wanted, drawn)), scheduler, verifier)

    def drafter_name(self, name: str) -> str | None:
        """The drafter that ``name`` stands for, None for plain decoding; an unknown name lists those there are."""
        if name == AUTO:
            return next(iter(self._levels), SUFFIX)
        if name == NONE:
            return None
        check_drafter(name, self._levels, "is open", self._given)
        return name

    def _most(self, name: str) -> int:
        """The most nodes that the drafter called ``name`` may draft now; none if one of its models is not open."""
        is_open = all(part == SUFFIX or part in self._levels or part in self._given for part in _parts(name))
        return self._planned.nodes if is_open else 0

    def _drafter(self, name: str, drawn: bool) -> Drafter:
        key = (name, drawn)
        if key not in self._drafters:
            self._drafters[key] = self._make_drafter(name, drawn)
        return self._drafters[key]

    def _make_drafter(self, name: str, drawn: bool) -> Drafter:
        if JOIN in name:
            return FallbackDrafter([self._drafter(part, drawn) for part in name.split(JOIN)], name)
        if ABOVE in name:
            lower, middle = name.rsplit(ABOVE, 1)
            return HierarchyDrafter(self._drafter(lower, False), self._levels[middle], self._target.vocab_size, name)
        if name == SUFFIX:
            return SuffixDrafter()
        if name in self._given:
            return self._given[name]
        return SmallDrafter(self._levels[name], self._target.vocab_size, name, drawn=drawn)

    def _limit(self, speculation: Speculation, shape: Shape, name: str) -> DraftLimit:
        size, planned = speculation.draft_size, self._planned
        if shape not in SHAPES:
            raise PocketspecError(f"no draft shape {shape!r}; there are: {', '.join(SHAPES)}")
        if shape == "tree" and not self._target.takes_trees:
            raise PocketspecError("this bundle's target cannot verify trees; ask for shape chain, or export it again")
        if shape == "tree" and planned.shape == "chain":
            raise PocketspecError("the plan has no room for trees; open the bundle with shape tree, or ask for a chain")
        if ABOVE in name and shape == "tree":
            raise PocketspecError(f"drafter {name!r} drafts chains; ask for shape chain, or for a drafter alone")
        if speculation.acceptance == "block" and shape == "tree":
            raise PocketspecError("acceptance 'block' judges chains; ask for shape chain, or for acceptance recursive")
        if size is not None and not 1 <= size <= planned.nodes:
            raise PocketspecError(
                f"a draft size of {size}; the plan allows 1 to {planned.nodes}: open the bundle with a larger one"
            )
        nodes = min(size or (_SUFFIX_NODES if name == SUFFIX else planned.nodes), planned.nodes)
        return tree_limit(nodes) if shape == "tree" else chain_limit(nodes)


class _Named:
    """Drafters by name as they are now: a model may be closed and opened again between two steps."""

    def __init__(self, find: Callable[[str], Drafter]) -> None:
        self._find = find

    def __getitem__(self, name: str) -> Drafter:
        return self._find(name)


def check_drafter(name: str, levels: Collection[str], where: str, others: Collection[str] = ()) -> None:
    """PocketspecError unless ``name`` is put together from "suffix", ``levels`` and ``others``, which are no models."""
    known = (*levels, *others)
    unknown = [part for part in _parts(name) if part not in (*known, SUFFIX)]
    if unknown:
        raise PocketspecError(f"no drafter {unknown[0]!r} {where}; there are: {', '.join(known_drafters(known))}")
    judges = [part for joined in name.split(JOIN) for part in joined.split(ABOVE)[1:]]
    unfit = [part for part in judges if part not in levels]
    if unfit:
        raise PocketspecError(f"drafter {name!r}: {unfit[0]} cannot judge what is drafted below it; put a model there")


def known_drafters(levels: Iterable[str]) -> tuple[str, ...]:
    """Every name a drafter can be asked for by, given the bundle's own; how they are joined is in ``Speculation``."""
    return (*levels, SUFFIX, NONE, AUTO)


def levels_below(manifest: Manifest) -> list[str]:
    """The names of all levels that can draft for the target: drafters, then intermediates."""
    below = (level for level in manifest.levels if level.role == "intermediate")
    return [level.name for level in (*manifest.drafters(), *below)]


def needed_levels(name: str, levels: Sequence[str]) -> tuple[str, ...]:
    """Which of the bundle's ``levels`` below the target must be open for the drafter called ``name``."""
    if name == AUTO:
        return tuple(levels[:1])
    return tuple(level for level in levels if level in _parts(name))


def _parts(name: str) -> list[str]:
    """The names that a drafter's name is put together from."""
    return [part for joined in name.split(JOIN) for part in joined.split(ABOVE)]


def _acceptance(speculation: Speculation, sampling: SamplingParams) -> str:
    name = speculation.acceptance
    if name is None:
        return "match" if sampling.temperature > 0 else "greedy"
    if name not in VERIFIERS:
        raise PocketspecError(f"no acceptance rule {name!r}; there are: {', '.join(VERIFIERS)}")
    if name == "greedy" and sampling.temperature > 0:
        raise PocketspecError(f"acceptance 'greedy' needs temperature 0, not {sampling.temperature}; ask for match")
    if name in _NEED_DRAWN and sampling.temperature == 0:
        raise PocketspecError(f"acceptance {name!r} needs a temperature above 0; at 0 it is greedy")
    return name
