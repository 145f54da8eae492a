"""Drafting ahead keeps the law: every random outcome is enumerated, for every rule and for drafts that were drawn."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from runtime.decoding.acceptance.block import BlockVerifier, block_walk
from runtime.decoding.acceptance.recursive import RecursiveVerifier, recursive_walk
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, DrawKind, chain_limit, make_chain
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Verifier
from runtime.decoding.sampling import SamplingParams, probabilities
from runtime.drafters import overlapped as production
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from runtime.scheduler.fixed import FixedScheduler
from tests.goodness_of_fit import chi_square
from tests.runtime.decoding.acceptance.enumeration import (
    DETECTED,
    EXACT,
    Rule,
    ScriptedCoins,
    Table,
    Tokens,
    emitted,
    law_of,
    path_to,
    variation,
)
from tests.runtime.decoding.test_loop import Ends
from tests.runtime.table_model import TableModel

LENGTH = 4
RULES: dict[str, Rule] = {"block": block_walk, "recursive": recursive_walk}


class Drawn:
    """Chains drawn from a table with scripted coins."""

    name = "drawn"

    def __init__(self, table: Table, coins: ScriptedCoins) -> None:
        self._table, self._coins = table, coins

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        tokens: list[int] = []
        probs: dict[int, Any] = {}
        before = tuple(context.tokens[1:].tolist())
        for node in range(limit.depth):
            probs[node - 1] = self._table((*before, *tokens))
            tokens.append(self._coins.draw(probs[node - 1]))
        return make_chain(tokens, kind=DrawKind.INDEPENDENT, probs=probs)


def _law(rule: Rule, target: Table, table: Table, gamma: int) -> dict[Tokens, float]:
    """Of the first ``LENGTH`` tokens. What a step brings beyond them is cut off: its law is the next steps' affair."""

    def program(coins: ScriptedCoins) -> Tokens:
        drafter, context = OverlappedDrafter(Drawn(table, coins)), Context(LENGTH + 2, SamplingParams(1.0))
        context.append([0])
        while len(context) <= LENGTH:
            draft = drafter.propose(context, chain_limit(min(gamma, LENGTH - len(context))))
            drafter.draft_ahead(context, draft, chain_limit(gamma))
            drafter._wait()  # coins fall in one order
            before = tuple(context.tokens[1:].tolist())
            verdict = rule(draft, lambda node: target((*before, *path_to(draft, node))), coins)  # noqa: B023
            context.append(emitted(draft, verdict))
        drafter.settle()
        return tuple(context.tokens[1 : LENGTH + 1].tolist())

    return law_of(program)


@pytest.mark.parametrize("gamma", [1, 2])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_outcome_together_is_the_law_of_the_target(rule: Rule, gamma: int, seed: int) -> None:
    target, table = Table(seed, 2, holes=0.0), Table(seed + 50, 2, holes=0.0)
    law = _law(rule, target, table, gamma)
    assert variation(law, target, LENGTH) < EXACT
    assert len(law) == 2**LENGTH


def test_distributions_that_stay_behind_when_the_first_token_goes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake to make here: the draft lost its first token, and its distributions did not."""

    def shifted(*args: Any) -> Draft | None:
        draft = rest(*args)
        if draft is None or len(draft) < 2:
            return draft
        return make_chain(draft.tokens, kind=draft.kind, probs={0: draft.probs[-1], -1: draft.probs[0]})

    rest = production._rest
    monkeypatch.setattr(production, "_rest", shifted)
    distances = [
        variation(_law(block_walk, Table(seed, 2), Table(seed + 50, 2), 2), Table(seed, 2), LENGTH) for seed in range(3)
    ]
    assert max(distances) > DETECTED


@pytest.mark.parametrize(
    ("drawn", "verifier"),
    [
        (True, BlockVerifier()),
        pytest.param(True, RecursiveVerifier(), marks=pytest.mark.slow),
        (False, BlockVerifier()),
    ],
    ids=["block", "recursive", "block on one-hot"],
)
def test_the_first_tokens_have_the_law_of_the_target(drawn: bool, verifier: Verifier) -> None:
    """With the production's random numbers, some of which are met twice."""
    vocab, prompt, runs, sampling = 3, [1, 0, 2], 500, SamplingParams(1.5)
    target = TableModel(vocab, seed=2)

    def law_after(tokens: list[int]) -> np.ndarray:
        fresh = TableModel(vocab, len(tokens) + 1, seed=2)
        fresh.prefill(tokens[:-1])
        return probabilities(fresh.forward(tokens[-1:]).logits[0], tokens, sampling)

    expected = {
        path: runs * float(np.prod([law_after([*prompt, *path[:place]])[token] for place, token in enumerate(path)]))
        for path in product(range(vocab), repeat=3)
    }
    seen = dict.fromkeys(expected, 0)
    drafter = OverlappedDrafter(DraftModelDrafter(TableModel(vocab, seed=4), vocab, drawn=drawn))
    for seed in range(runs):
        context = Context(64, SamplingParams(1.5, seed=seed))
        context.append(prompt)
        scheduler = FixedScheduler(drafter.name, chain_limit(2))
        steps = decode(target, context, {drafter.name: drafter}, scheduler, verifier, Ends(3))
        seen[tuple(token for step in steps for token in step.tokens)] += 1
    often = [path for path in expected if expected[path] >= 5]
    counts = [*(seen[path] for path in often), runs - sum(seen[path] for path in often)]
    means = [*(expected[path] for path in often), runs - sum(expected[path] for path in often)]
    assert chi_square(counts, means) > 1e-3
