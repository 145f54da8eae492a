"""Makes drafters from their specifications: draft models, registered drafters, and combinations of them."""

from __future__ import annotations

from memory.drafter_spec import DrafterSpec
from runtime.decoding.protocols import Drafter
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.fallback import FallbackDrafter
from runtime.drafters.head_stack import HeadStackDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from runtime.drafters.parallel import ParallelDrafter
from runtime.drafters.prediction_head import PredictionHeadDrafter
from runtime.drafters.registry import DrafterResources, registered


def make_drafter(spec: DrafterSpec, resources: DrafterResources) -> Drafter:
    """The drafter that ``spec`` describes, made of ``resources``. KeyError if a level of it is not open."""
    if spec.kind == "overlapped":
        (inner,) = spec.parts
        return OverlappedDrafter(make_drafter(inner, resources), spec.name, resources.cores(inner.name))
    if spec.kind == "fallback":
        return FallbackDrafter([resources.drafter(part) for part in spec.parts], spec.name)
    if spec.kind == "hierarchy":
        lower, middle = spec.parts
        model = resources.model(middle.name)
        below = resources.drafter(lower)
        return HierarchyDrafter(below, model, resources.vocab_size, spec.name, resources.drawn, resources.inner_rule)
    if spec.name in registered():
        return registered()[spec.name].make(spec, resources)
    drafter = _draft_model(spec.name, resources)
    drafter.calibration = resources.calibration(spec.name)
    return drafter


def _draft_model(
    level: str, resources: DrafterResources
) -> DraftModelDrafter | ParallelDrafter | PredictionHeadDrafter | HeadStackDrafter:
    """The drafter that runs ``level`` alone."""
    model, parallel, tokens = resources.model(level), resources.parallel(level), resources.logit_tokens(level)
    reader = resources.head(level)
    if (stack := resources.stack(level)) is not None:
        return HeadStackDrafter(stack, resources.vocab_size, level, resources.drawn, tokens=tokens)
    if parallel is not None:
        return ParallelDrafter(model, parallel, resources.vocab_size, level, resources.drawn, tokens, reader)
    if reader is not None:
        longest = resources.longest(level)
        return PredictionHeadDrafter(
            reader, resources.vocab_size, level, resources.drawn, tokens=tokens, longest=longest
        )
    return DraftModelDrafter(model, resources.vocab_size, level, resources.drawn, tokens=tokens)
