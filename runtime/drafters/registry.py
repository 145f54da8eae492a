"""The kinds of drafters there are. A new one is a new file and one call of ``register``.

A registered drafter is known by its name everywhere: ``Speculation``, ``--drafter``, the bench's contenders, and the
scheduler, which weighs it like the suffix drafter, by how often it drafts and how much of that is accepted. A drafter
that runs a model of the bundle is a level of the manifest instead, and is planned, opened and weighed as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from export.manifest import PocketspecError
from memory.drafter_spec import AUTO, NONE, DrafterSpec
from runtime.decoding.protocols import Drafter, Model, Verifier


class DrafterResources(Protocol):
    """What making a drafter may use. ``vocab_size`` is the target's; ``drawn``: its rule needs drawn drafts.

    ``inner_rule`` judges the drafts below an intermediate; None: the rule that fits.
    """

    vocab_size: int
    drawn: bool
    inner_rule: Verifier | None

    def model(self, level: str) -> Model:
        """The model of an open level."""
        ...

    def cores(self, level: str) -> tuple[int, ...]:
        """The cores that a level stays on; none where it has no place of its own, or is no level."""
        ...

    def calibration(self, level: str) -> Callable[[float], float]:
        """From a level's own probability of a token to the chance that the token is accepted."""
        ...

    def drafter(self, spec: DrafterSpec) -> Drafter:
        """The drafter of a part."""
        ...


DrafterFactory = Callable[[DrafterSpec, DrafterResources], Drafter]


@dataclass(frozen=True)
class RegisteredDrafter:
    """A drafter that needs no model of the bundle: its ``name``, how it is made, and the longest chain it drafts."""

    name: str
    make: DrafterFactory
    longest: int


_registered: dict[str, RegisteredDrafter] = {}


def register(name: str, make: DrafterFactory, longest: int) -> None:
    """Makes a drafter known by ``name`` from now on, in every engine. PocketspecError if that is taken, or no name."""
    if not re.fullmatch(r"\w+", name):
        raise PocketspecError(f"{name!r} is no name of a drafter; write one word of letters, digits and underscores")
    if name in (AUTO, NONE, *_registered):
        raise PocketspecError(f"there is a drafter {name!r} already; take another name")
    _registered[name] = RegisteredDrafter(name, make, longest)


def registered() -> Mapping[str, RegisteredDrafter]:
    """All registered drafters, by name."""
    return _registered
