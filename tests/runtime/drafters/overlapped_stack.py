"""What tests of drafting ahead share: a text, drafters that call back, and answers decoded with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, Step, chain_limit
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Drafter
from runtime.decoding.sampling import SamplingParams
from runtime.scheduler.fixed import FixedScheduler
from tests.runtime.decoding.test_loop import PROMPT, Ends
from tests.runtime.table_model import TableModel

GREEDY = SamplingParams()
GAMMA = 3
PATIENCE = 30.0


class Calling:
    """A drafter that calls ``before`` with what it is given, and is ``inner`` otherwise."""

    name = "calling"

    def __init__(self, inner: Drafter, before) -> None:
        self._inner, self._before = inner, before

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        self._before(context, limit)
        return self._inner.propose(context, limit)


def context_of(tokens: Sequence[int], sampling: SamplingParams = GREEDY, capacity: int = 80) -> Context:
    context = Context(capacity, sampling)
    context.append(tokens)
    return context


def decoded(drafter: Drafter, count: int, target: TableModel | None = None, **sizes) -> Iterator[Step]:
    context = context_of(PROMPT, **sizes)
    scheduler = FixedScheduler(drafter.name, chain_limit(GAMMA))
    target = target or TableModel(capacity=100)
    return decode(target, context, {drafter.name: drafter}, scheduler, MatchVerifier(), Ends(count))


def tokens_of(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]


def ahead_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]
