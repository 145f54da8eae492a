"""Who guesses and how guesses are judged, in the names a user knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from export.manifest import Manifest, PocketspecError
from memory.drafter_spec import AUTO as AUTO
from memory.drafter_spec import NONE as NONE
from memory.drafter_spec import DrafterSpec, parse_drafter
from memory.plan import Shape
from runtime.arguments import as_whole
from runtime.decoding.draft import DraftLimit
from runtime.drafters.registry import registered
from runtime.scheduler.available import Kind

SHAPES: tuple[Shape, ...] = get_args(Shape)
# The acceptance rules that use how a draft was drawn; other rules get the most probable tokens.
NEED_DRAWN = ("block", "recursive")


@dataclass(frozen=True)
class Speculation:
    """How to speculate.

    ``drafter`` is "auto" (what is expected to be fastest, step by step), "none" (plain decoding), "suffix" (repetition
    in prompt and answer), the name of a drafter in the bundle, "LOWER>MIDDLE" (the model MIDDLE, itself sped up by
    LOWER; chains outside), several with plus signs ("suffix+NAME": the first that has something to say), or "ahead:"
    before any of these (it drafts on while the target verifies; chains). ``memory.drafter_spec`` reads these names, and
    ``drafters.registry`` may know more of them. ``draft_size`` is the most nodes of a draft;
    None, and ``shape`` None: as planned, and with "auto" what pays within that. ``limit`` says both at once, and what a
    level below may draft. ``only`` keeps "auto" to one kind of drafts. ``acceptance`` None means greedy at temperature
    0 and "match" above.
    """

    drafter: str = AUTO
    draft_size: int | None = None
    shape: Shape | None = None
    acceptance: str | None = None
    limit: DraftLimit | None = None
    only: Kind | None = None

    def __post_init__(self) -> None:
        size = None if self.draft_size is None else as_whole(self.draft_size)
        if not isinstance(self.drafter, str) or (size is None and self.draft_size is not None):
            raise PocketspecError(
                f"drafter is {self.drafter!r} and draft_size {self.draft_size!r}; it takes a name and a whole number"
            )
        object.__setattr__(self, "draft_size", size)

    @property
    def asks_for_trees(self) -> bool:
        """Whether trees are wanted where they are exact up to near ties alone; else they are taken where they are
        exact."""
        return self.only == "tree" or (self.limit.shape if self.limit is not None else self.shape) == "tree"

    @property
    def keeps_draws(self) -> bool:
        """Whether sampled answers equal plain ones with the same seed; the other rules keep the law alone."""
        return self.acceptance not in NEED_DRAWN


PLAIN = Speculation(drafter=NONE)


def check_drafter(name: str, levels: Collection[str], where: str, others: Collection[str] = ()) -> DrafterSpec:
    """The drafter called ``name``, which is put together from ``levels``, registered drafters and ``others``.

    PocketspecError if a part of it is none of these, or if one that is no level would have to judge drafts.
    """
    spec, known = parse_drafter(name), (*levels, *others)
    unknown = [part for part in spec.singles if part not in (*known, *registered())]
    if unknown:
        raise PocketspecError(f"no drafter {unknown[0]!r} {where}; there are: {', '.join(known_drafters(known))}")
    unfit = [part for part in spec.judges if part not in levels]
    if unfit:
        raise PocketspecError(f"drafter {name!r}: {unfit[0]} cannot judge what is drafted below it; put a model there")
    return spec


def known_drafters(levels: Iterable[str]) -> tuple[str, ...]:
    """Every name a drafter can be asked for by, given the bundle's own; ``memory.drafter_spec`` joins them."""
    return (*levels, *registered(), NONE, AUTO)


def levels_below(manifest: Manifest) -> list[str]:
    """The names of all levels that can draft for the target: drafters, then intermediates."""
    below = (level for level in manifest.levels if level.role == "intermediate")
    return [level.name for level in (*manifest.drafters(), *below)]


def needed_levels(name: str, levels: Sequence[str]) -> tuple[str, ...] | None:
    """Which of the bundle's ``levels`` below the target must be open for the drafter called ``name``.

    None for "auto": the plan decides.
    """
    return None if name == AUTO else parse_drafter(name).needed_levels(levels)
