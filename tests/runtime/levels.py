"""Stacks of table models for tests: levels by their seeds, and texts decoded with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np

from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import DraftLimit, Step
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Drafter, Verifier
from runtime.decoding.sampling import SamplingParams, probabilities
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.scheduler.fixed import FixedScheduler
from tests.goodness_of_fit import chi_square
from tests.runtime.table_model import TableModel


def context_of(tokens: list[int], sampling: SamplingParams, capacity: int = 64) -> Context:
    """A context with ``tokens`` committed."""
    context = Context(capacity, sampling)
    context.append(tokens)
    return context


def stack(*models: TableModel, drawn: bool = False, vocab_size: int = 11) -> Drafter:
    """The first model as the drafter, every other one as an intermediate above those before it."""
    drafter: Drafter = DraftModelDrafter(models[0], vocab_size, drawn=drawn)
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


def probs_of(model: TableModel, tokens: list[int], sampling: SamplingParams) -> np.ndarray:
    """The distribution of what follows ``tokens``, computed without a cache."""
    fresh = TableModel(model.vocab_size, len(tokens) + 1, seed=model.seed)
    fresh.prefill(tokens[:-1])
    return probabilities(fresh.forward(tokens[-1:]).logits[0], tokens, sampling)


def law_pvalue(target: TableModel, drafter: Drafter, limit: DraftLimit, verifier: Verifier, runs: int) -> float:
    """Chi-square of the first three tokens against the target's own law, cells that expect under 5 merged."""
    prompt, law = [1, 0, 2], {}
    for path in product(range(target.vocab_size), repeat=3):
        rows = [probs_of(target, [*prompt, *path[:place]], SamplingParams(1.5)) for place in range(3)]
        law[path] = runs * float(np.prod([row[token] for row, token in zip(rows, path, strict=True)]))
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(runs):
        context = context_of(prompt, SamplingParams(1.5, seed=seed))
        seen[tuple(text_of(target, context, drafter, limit, verifier, StopRule(max_new_tokens=3)))] += 1
    large = [path for path, mean in law.items() if mean >= 5]
    counts, means = [seen[path] for path in large], [law[path] for path in large]
    if sum(counts) < runs:
        counts, means = [*counts, runs - sum(counts)], [*means, runs - sum(means)]
    return chi_square(counts, means)
