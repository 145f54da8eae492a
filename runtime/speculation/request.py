"""How to speculate, as users ask for it: a drafter by name, the shape and size of drafts, an acceptance rule."""

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
# The acceptance rules that need drafts with the distributions from which they were drawn.
NEED_DRAWN = ("block", "recursive")


@dataclass(frozen=True)
class Speculation:
    """How to speculate. PocketspecError for values of a wrong type.

    ``drafter``:

    - "auto": at each step, what is expected to be fastest;
    - "none": plain decoding;
    - "suffix": repetition in prompt and answer; ``drafters.registry`` may know more such names;
    - the name of a level of the bundle;
    - "LOWER>MIDDLE": the level MIDDLE, for which LOWER drafts; drafts chains;
    - "FIRST+SECOND": the first that has a draft worth verifying;
    - "ahead:" in front of any of these: drafts chains while the target verifies.

    ``draft_size`` is the most nodes of a draft, and ``shape`` its shape. None: as planned; with "auto", what pays
    within the plan. ``limit`` gives both, and the limits of levels below. ``only`` restricts "auto" to one kind of
    drafts. ``acceptance`` names the rule; None: "greedy" at temperature 0, otherwise "match".
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
        """Whether trees are wanted even where they are exact only up to near ties."""
        return self.only == "tree" or (self.limit.shape if self.limit is not None else self.shape) == "tree"

    @property
    def keeps_draws(self) -> bool:
        """Whether sampled answers equal plain ones with the same seed; other rules keep only their distribution."""
        return self.acceptance not in NEED_DRAWN


PLAIN = Speculation(drafter=NONE)


def check_drafter(
    name: str, levels: Collection[str], where: str, others: Collection[str] = (), files: Collection[str] = ()
) -> DrafterSpec:
    """The drafter called ``name``, which may consist of ``levels``, registered drafters and ``others``.

    PocketspecError if a part of it is none of these, or if a part that is no level would have to verify drafts.
    ``where`` says in the error what was searched, as in "in BUNDLE". ``files`` are those of the bundle.
    """
    spec, known = parse_drafter(name), (*levels, *others)
    unknown = [part for part in spec.singles if part not in (*known, *registered(files))]
    if unknown:
        raise PocketspecError(
            f"no drafter {unknown[0]!r} {where}; there are: {', '.join(known_drafters(known, files))}"
        )
    unfit = [part for part in spec.judges if part not in levels]
    if unfit:
        raise PocketspecError(f"drafter {name!r}: {unfit[0]} cannot judge what is drafted below it; put a model there")
    return spec


def known_drafters(levels: Iterable[str], files: Collection[str]) -> tuple[str, ...]:
    """Every name of a single drafter for a bundle with ``files``: ``levels``, registered ones, "none" and "auto"."""
    return (*levels, *registered(files), NONE, AUTO)


def levels_below(manifest: Manifest) -> list[str]:
    """The names of all levels that can draft for the target: drafters first, then intermediates."""
    below = (level for level in manifest.levels if level.role == "intermediate")
    return [level.name for level in (*manifest.drafters(), *below)]


def needed_levels(name: str, levels: Sequence[str]) -> tuple[str, ...] | None:
    """Those of ``levels`` that must be open for the drafter called ``name``; None for "auto": the plan decides."""
    return None if name == AUTO else parse_drafter(name).needed_levels(levels)
