"""The contenders of a benchmark (decoding settings that are compared), made from their names.

- ``plain`` runs one row a step, ``plain-safe`` the width that agrees bit for bit with wider steps.
- ``suffix`` (or another registered drafter), a level of the bundle, ``LOWER>MIDDLE``, ``chain``, ``tree``,
  ``hierarchy`` and ``ahead`` let the scheduler choose the size of drafts; ``auto`` lets it choose among all methods.
- ``all-drafters`` stands for plain decoding, every drafter of the bundle alone, and ``auto``.
- ``NAME-chain6``, ``NAME-tree8`` and ``NAME-tree8x3`` (nodes and depth) have drafts of one size.
  ``LOWER>MIDDLE-chain6/tree8x3`` has sizes for the target and for the intermediate. ``ahead:`` in front of any of them
  drafts while the target verifies.
- ``native:`` or ``portable:`` in front of any name compares kernels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from export.manifest import Manifest, PocketspecError
from memory.drafter_spec import hierarchy, parse_drafter
from runtime.decoding.draft import DraftLimit, Pick, chain_limit, tree_limit
from runtime.drafters.registry import registered
from runtime.kernels.selection import Wanted
from runtime.scheduler.available import Kind
from runtime.speculation.request import AUTO, PLAIN, Speculation, levels_below, needed_levels

PERFECT = "perfect"
ALL_DRAFTERS = "all-drafters"

_KINDS: tuple[Kind, ...] = ("chain", "tree", "hierarchy", "ahead")
_COMPARED: tuple[Wanted, ...] = ("native", "portable")
_SIZED = re.compile(r"((?:ahead:)?[^:/]+)-((?:chain|tree)\d[^-]*)")
_LIMIT = re.compile(r"(chain|tree)(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class Contender:
    """A setting that is compared. ``single_rows``: a step of one row is not padded to a width that agrees bit for bit.

    ``kernels`` None: those of the command.
    """

    name: str
    speculation: Speculation
    single_rows: bool = False
    kernels: Wanted | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it drafts nothing."""
        return self.speculation.drafter == PLAIN.drafter

    @property
    def is_auto(self) -> bool:
        """Whether the scheduler chooses among all methods."""
        return self.speculation.drafter == AUTO and self.speculation.only is None

    @property
    def is_fixed(self) -> bool:
        """Whether it always drafts with the same drafter, and one that is possible for any text."""
        return self.speculation.drafter not in (AUTO, PERFECT)

    @property
    def pick_name(self) -> str | None:
        """The scheduler's name for its only pick; None if the scheduler chooses among several."""
        speculation = self.speculation
        if self.is_plain:
            return Pick(None).name
        return None if speculation.limit is None else Pick(speculation.drafter, speculation.limit).name


def levels_of(contender: Contender, manifest: Manifest) -> tuple[str, ...]:
    """The names of the levels below the target that ``contender`` may use."""
    below = levels_below(manifest)
    needed = needed_levels(contender.speculation.drafter, below)
    return tuple(below) if needed is None else needed


def drafter_names(manifest: Manifest) -> list[str]:
    """Every drafter that can draft for the target of ``manifest``, one without a model first."""
    lower = [level.name for level in manifest.drafters()]
    middle = [level.name for level in manifest.levels if level.role == "intermediate"]
    stacked = [hierarchy(below, above).name for above in middle for below in lower]
    return [*registered(manifest.files), *levels_below(manifest), *stacked]


def all_drafters(manifest: Manifest) -> list[str]:
    """The names that ``all-drafters`` stands for."""
    return ["plain", *drafter_names(manifest), AUTO]


def parse_contender(text: str, drafters: Collection[str] = ()) -> Contender:
    """A contender from its name; PocketspecError says how names are made.

    ``drafters`` are names that may stand without a size, beside those of registered drafters.
    """
    kernels: Wanted | None = None
    method = text
    for which in _COMPARED:
        if text.startswith(f"{which}:"):
            kernels, method = which, text.removeprefix(f"{which}:")
    if method in ("plain", "plain-safe"):
        return Contender(text, PLAIN, method == "plain", kernels)
    if method == AUTO:
        return Contender(text, Speculation(), kernels=kernels)
    for kind in _KINDS:
        if method == kind:
            return Contender(text, Speculation(AUTO, only=kind), kernels=kernels)
    if method in registered() or method in drafters:
        return Contender(text, Speculation(method), kernels=kernels)
    match = _SIZED.fullmatch(method)
    if not match:
        sized = ", ".join(("plain", "plain-safe", *registered(), *_KINDS, AUTO, ALL_DRAFTERS))
        raise PocketspecError(
            f"no contender {text!r}; write {sized}, or a drafter with shape and size such as suffix-chain7,"
            " NAME-tree8x3 or LOWER>MIDDLE-chain6/tree8x3, with native: or portable: in front to compare kernels"
        )
    name, limits = match[1], match[2].split("/")
    drafting = 1 + len(parse_drafter(name).judges)
    if len(limits) > drafting:
        raise PocketspecError(
            f"contender {text!r} has {len(limits)} sizes for {drafting} levels that draft; write one for every level,"
            " joined as in LOWER>MIDDLE-chain6/chain3"
        )
    return Contender(text, Speculation(name, limit=_parse_limits(limits, text)), kernels=kernels)


def _parse_limits(parts: Sequence[str], text: str) -> DraftLimit:
    """The limit of drafts for the target; ``inner`` has that for the level below, if there is one."""
    match = _LIMIT.fullmatch(parts[0])
    if not match or (match[1] == "chain" and match[3]):
        raise PocketspecError(f"contender {text!r}: {parts[0]} is no draft; write chain6, tree8 or tree8x3")
    nodes, depth = int(match[2]), int(match[3] or 1)
    if not 1 <= depth <= nodes:
        raise PocketspecError(f"contender {text!r}: {parts[0]} is no draft; it has 1 node or more, and no more depth")
    limit = tree_limit(nodes) if match[1] == "tree" else chain_limit(nodes)
    inner = _parse_limits(parts[1:], text) if len(parts) > 1 else None
    return replace(limit, depth=depth if match[3] else limit.depth, inner=inner)


def default_names(manifest: Manifest) -> list[str]:
    """The contenders compared by default: plain decoding and every kind of draft that the bundle can have."""
    names = ["plain", "plain-safe", *registered(manifest.files)]
    if levels_below(manifest):
        names += ["chain", *(["tree"] if manifest.target.tree else [])]
    if any(level.role == "intermediate" for level in manifest.levels):
        names.append("hierarchy")
    return [*names, AUTO]


def references(contenders: Sequence[Contender]) -> dict[str, str]:
    """For each contender, the name of the one whose answers it must equal.

    That is plain decoding with the same kernels: at the safe width if it is compared, otherwise of one row, otherwise
    the first contender with those kernels.
    """
    found = {}
    for contender in contenders:
        same = [other for other in contenders if other.kernels == contender.kernels]
        plain = [other for other in same if other.is_plain]
        found[contender.name] = next((other for other in plain if not other.single_rows), [*plain, *same][0]).name
    return found
