"""The registry of drafters that need no model. A new one is a new file and one call of ``register``.

A registered drafter is known by its name everywhere: to ``Speculation``, ``--drafter``, the bench, and the scheduler,
which forecasts it from how often it drafts and how much of that is accepted. A drafter that runs a model of the bundle
is not registered: it is a level of the manifest, and is planned, opened and forecast as a draft model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from export.manifest import ParallelDrafts, PocketspecError
from memory.drafter_spec import AUTO, NONE, DrafterSpec
from memory.plan import Shape
from runtime.bundle.draft_table import DraftTable
from runtime.decoding.exact_math import Ids
from runtime.decoding.protocols import Drafter, Model, Verifier
from runtime.drafters.head_stack import OpenStack
from runtime.drafters.prediction_head import HeadReader
from runtime.drafters.suffix import OtherTexts


class DrafterResources(Protocol):
    """What a drafter can be made of.

    ``vocab_size`` is the target's. ``drawn``: the acceptance rule needs drafts that carry their distributions.
    ``inner_rule`` is the acceptance rule of intermediates; None: the one that suits the sampling.
    """

    vocab_size: int
    drawn: bool
    inner_rule: Verifier | None

    @property
    def other_texts(self) -> OtherTexts | None:
        """Texts beside the conversation in which repetition may be looked for; None: there are none."""
        ...

    @property
    def table(self) -> DraftTable:
        """What followed a few tokens in the texts that the bundle was exported with; KeyError if it has none."""
        ...

    def model(self, level: str) -> Model:
        """The model of an open level; KeyError if it is not open."""
        ...

    def cores(self, level: str) -> tuple[int, ...]:
        """The cores that a level is bound to; empty if it is bound to none, or is no open level."""
        ...

    def calibration(self, level: str) -> Callable[[float], float]:
        """The function from a level's own probability of a token to the chance that the token is accepted."""
        ...

    def parallel(self, level: str) -> ParallelDrafts | None:
        """How a level drafts in parallel; None if it does not."""
        ...

    def head(self, level: str) -> HeadReader | None:
        """The reader of a level that is a prediction head of the target; None if it is none."""
        ...

    def stack(self, level: str) -> OpenStack | None:
        """A level that is a stack of heads which one forward computes; None for others."""
        ...

    def longest(self, level: str) -> float:
        """The most tokens of a draft of a level."""
        ...

    def logit_tokens(self, level: str) -> Ids | None:
        """The ascending tokens that the logits of a level are of; None: of all."""
        ...

    def drafter(self, spec: DrafterSpec) -> Drafter:
        """The drafter that ``spec``, a part of another one, describes."""
        ...


DrafterFactory = Callable[[DrafterSpec, DrafterResources], Drafter]

# The drafter of what a constraint forces, which nobody asks for by name.
GRAMMAR = "grammar"


@dataclass(frozen=True)
class RegisteredDrafter:
    """A drafter that needs no model: its name, the function that makes it, and the usual most tokens of a draft.

    ``shape`` is that of its drafts where the target judges trees. ``file``: it drafts for bundles that have this file.
    """

    name: str
    make: DrafterFactory
    longest: int
    shape: Shape = "chain"
    file: str | None = None


_registered: dict[str, RegisteredDrafter] = {}


def register(name: str, make: DrafterFactory, longest: int, shape: Shape = "chain", file: str | None = None) -> None:
    """Makes a drafter known by ``name`` in every engine from now on; see ``RegisteredDrafter``.

    ``longest`` is the most tokens of a draft, unless a caller gives a draft size. PocketspecError if ``name`` is taken,
    or is not one word.
    """
    if not re.fullmatch(r"\w+", name):
        raise PocketspecError(f"{name!r} is no name of a drafter; write one word of letters, digits and underscores")
    require_free(name)
    _registered[name] = RegisteredDrafter(name, make, longest, shape, file)


def require_free(name: str) -> None:
    """PocketspecError if ``name`` means something already in every engine."""
    if name in (AUTO, NONE, GRAMMAR, *_registered):
        raise PocketspecError(f"there is a drafter {name!r} already; take another name")


def registered(files: Collection[str] | None = None) -> Mapping[str, RegisteredDrafter]:
    """The registered drafters by name: all, or those that draft for a bundle with these ``files``."""
    if files is None:
        return _registered
    return {name: drafter for name, drafter in _registered.items() if drafter.file is None or drafter.file in files}
