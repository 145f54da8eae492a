"""Makes drafters from what they are called: levels of the bundle, registered drafters, and what is put together."""

from __future__ import annotations

from memory.drafter_spec import DrafterSpec
from runtime.decoding.protocols import Drafter
from runtime.drafters.draft_model import SmallDrafter
from runtime.drafters.fallback import FallbackDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.overlapped import AheadDrafter
from runtime.drafters.registry import Workshop, registered


def make_drafter(spec: DrafterSpec, workshop: Workshop) -> Drafter:
    """The drafter that ``spec`` describes; its parts are the workshop's."""
    if spec.kind == "overlapped":
        (inner,) = spec.parts
        return AheadDrafter(make_drafter(inner, workshop), spec.name, workshop.cores(inner.name))
    if spec.kind == "fallback":
        return FallbackDrafter([workshop.drafter(part) for part in spec.parts], spec.name)
    if spec.kind == "hierarchy":
        lower, middle = spec.parts
        model = workshop.model(middle.name)
        below = workshop.drafter(lower)
        return HierarchyDrafter(below, model, workshop.vocab_size, spec.name, workshop.drawn, workshop.inner_rule)
    if spec.name in registered():
        return registered()[spec.name].make(spec, workshop)
    drafter = SmallDrafter(workshop.model(spec.name), workshop.vocab_size, spec.name, drawn=workshop.drawn)
    drafter.calibration = workshop.calibration(spec.name)
    return drafter
