"""Stacks of table models for tests: levels by their seeds, and texts decoded with them."""

from __future__ import annotations

from collections.abc import Iterator

from runtime.context import Context
from runtime.decode import Step, decode
from runtime.draft import DraftLimit
from runtime.drafters import Drafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.small import SmallDrafter
from runtime.sampling import SamplingParams
from runtime.scheduler.fixed import FixedScheduler
from runtime.stop import StopRule
from runtime.verify import Verifier
from runtime.verify.match import MatchVerifier
from tests.runtime.table_model import TableModel


def context_of(tokens: list[int], sampling: SamplingParams, capacity: int = 64) -> Context:
    """A context with ``tokens`` committed."""
    context = Context(capacity, sampling)
    context.append(tokens)
    return context


def stack(*models: TableModel, drawn: bool = False, vocab_size: int = 11) -> Drafter:
    """The first model as the drafter, every other one as an intermediate above those before it."""
    drafter: Drafter = SmallDrafter(models[0], vocab_size, drawn=drawn)
    for depth, model in enumerate(models[1:]):
        drafter = HierarchyDrafter(drafter, model, vocab_size, f"hierarchy{depth}", drawn)
    return drafter


def decoded(
    target: TableModel,
    context: Context,
    drafter: Drafter | None,
    limit: DraftLimit,
    verifier: Verifier | None = None,
    stop: StopRule | None = None,
) -> Iterator[Step]:
    """The steps that go on with ``context``, plain ones without a drafter."""
    name = drafter.name if drafter else None
    drafters = {name: drafter} if drafter else {}
    return decode(
        target,
        context,
        drafters,
        FixedScheduler(name, limit if drafter else DraftLimit(0, 0)),
        verifier or MatchVerifier(),
        stop or StopRule(max_new_tokens=40),
    )


def text_of(
    target: TableModel,
    context: Context,
    drafter: Drafter | None,
    limit: DraftLimit,
    verifier: Verifier | None = None,
    stop: StopRule | None = None,
) -> list[int]:
    """The tokens of ``decoded``."""
    return [token for step in decoded(target, context, drafter, limit, verifier, stop) for token in step.tokens]
