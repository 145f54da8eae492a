"""A drafter's name, parsed once into plain data that planning, scheduling, the bench and the command line share.

| name | what drafts |
| --- | --- |
| ``NAME`` | a level of the bundle, or a registered drafter that needs no model ("suffix") |
| ``LOWER>MIDDLE`` | the level MIDDLE, which verifies drafts of LOWER |
| ``FIRST+SECOND`` | the first that has a draft worth verifying |
| ``ahead:DRAFTER`` | any of these, which goes on drafting while the target verifies |
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from export.manifest import PocketspecError

# No drafters: what is expected to be fastest, and plain decoding.
AUTO, NONE = "auto", "none"
_JOIN, _ABOVE, _AHEAD = "+", ">", "ahead:"
# Deeper names would be a mistake, or an attack on the parser, which calls itself.
_DEEPEST = 16

DrafterKind = Literal["single", "hierarchy", "fallback", "overlapped"]


@dataclass(frozen=True)
class DrafterSpec:
    """One drafter: its full ``name``, and the ``parts`` that it consists of; a single drafter has none.

    The parts of a hierarchy are the drafter below, then the level that verifies its drafts.
    """

    kind: DrafterKind
    name: str
    parts: tuple[DrafterSpec, ...] = ()

    @property
    def singles(self) -> tuple[str, ...]:
        """The names of all levels and registered drafters that it consists of."""
        return tuple(part.name for part in self._all() if part.kind == "single")

    @property
    def judges(self) -> tuple[str, ...]:
        """The levels that verify drafts of others, the one next to the target first."""
        return tuple(part.parts[1].name for part in self._all() if part.kind == "hierarchy")

    @property
    def apart_from_target(self) -> tuple[str, ...]:
        """The single drafters that draft where the target has not been: below an intermediate, or ahead of it."""
        apart = [part.parts[0] for part in self._all() if part.kind in ("hierarchy", "overlapped")]
        return tuple(dict.fromkeys(name for part in apart for name in part.singles))

    @property
    def drafts_chains_only(self) -> bool:
        """Whether all its drafts are chains."""
        return any(part.kind in ("hierarchy", "overlapped") for part in self._all())

    def needed_levels(self, levels: Collection[str]) -> tuple[str, ...]:
        """Those of the bundle's ``levels`` that it needs, in their order."""
        return tuple(level for level in levels if level in self.singles)

    def _all(self) -> Iterator[DrafterSpec]:
        yield self
        for part in self.parts:
            yield from part._all()


def hierarchy(lower: str, middle: str) -> DrafterSpec:
    """Level ``middle``, which verifies drafts of ``lower``."""
    return parse_drafter(f"{lower}{_ABOVE}{middle}")


def overlapped(drafter: str) -> DrafterSpec:
    """``drafter``, which goes on drafting while the target verifies."""
    return parse_drafter(f"{_AHEAD}{drafter}")


@lru_cache(maxsize=256)
def parse_drafter(name: str) -> DrafterSpec:
    """The drafter called ``name``, whether or not its parts exist; PocketspecError if it is no drafter's name."""
    if name.count(_ABOVE) + name.count(_AHEAD) > _DEEPEST:
        raise PocketspecError(f"drafter {name[:40]!r}...: at most {_DEEPEST} levels can stand above one another")
    if name.startswith(_AHEAD):
        inner = parse_drafter(name.removeprefix(_AHEAD))
        if any(part.kind == "overlapped" for part in inner._all()):
            raise PocketspecError(f"drafter {name!r}: {_AHEAD!r} stands before all others or not at all")
        return DrafterSpec("overlapped", name, (inner,))
    if _AHEAD in name:
        raise PocketspecError(f"drafter {name!r}: {_AHEAD!r} stands before all others or not at all")
    if _JOIN in name:
        return DrafterSpec("fallback", name, tuple(map(parse_drafter, name.split(_JOIN))))
    if _ABOVE in name:
        lower, middle = name.rsplit(_ABOVE, 1)
        return DrafterSpec("hierarchy", name, (parse_drafter(lower), DrafterSpec("single", middle)))
    return DrafterSpec("single", name)
