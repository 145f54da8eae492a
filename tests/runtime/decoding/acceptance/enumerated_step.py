"""The law of one step of the decoding loop, by running it once for every outcome of every random decision in it.

Models, loop, drafters and rules are those of production; the decisions are taken to be independent of each other.
"""

from __future__ import annotations

import numpy as np
import pytest

import runtime.decoding.acceptance.block as block
import runtime.decoding.acceptance.recorded_block as record
import runtime.decoding.acceptance.recursive as recursive
from runtime.decoding.constraint import Constraint
from runtime.decoding.distribution import Distribution
from runtime.decoding.draft import DraftLimit, Pick
from runtime.decoding.loop import Loop
from runtime.decoding.protocols import Drafter, Verifier
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from tests.runtime.decoding.acceptance.enumeration import ScriptedCoins, Table, Tokens, law_of, variation
from tests.runtime.levels import context_of, probs_of
from tests.runtime.table_model import TableModel

PROMPT, VOCAB = [1, 0, 2], 3


class ModelLaw(Table):
    """What a model says after the prompt and a prefix."""

    def __init__(self, model: TableModel, params: SamplingParams) -> None:
        super().__init__(0, model.vocab_size)
        self._model, self._params = model, params

    def __call__(self, prefix: Tokens) -> np.ndarray:
        if prefix not in self._rows:
            row = probs_of(self._model, [*PROMPT, *prefix], self._params).astype(np.float64)
            self._rows[prefix] = row / row.sum()
        return self._rows[prefix]


def step_distance(
    patch: pytest.MonkeyPatch,
    target: TableModel,
    drafter: Drafter,
    limit: DraftLimit,
    verifier: Verifier,
    params: SamplingParams,
    constraint: Constraint | None = None,
    wanted: Table | None = None,
) -> float:
    """Total variation between what a step emits, the target alone going on behind it, and the target alone.

    Under a ``constraint`` the law that is ``wanted`` of the target is another.
    """
    lengths = set()

    def program(coins: ScriptedCoins) -> Tokens:
        for rule in (block, recursive, record):
            patch.setattr(rule, "StepCoins", lambda seed, position: coins)
        patch.setattr(
            Distribution, "draw", lambda self, number: coins.draw(self.dense(np.empty(self.size, np.float32)))
        )
        target.cache.rollback(0)
        target.prefill(PROMPT[:-1])
        context = context_of(PROMPT, params, 16)
        context.constraint = None if constraint is None else constraint.fork()
        loop = Loop(target, context, {drafter.name: drafter}, verifier, StopRule())
        tokens = loop.step(Pick(drafter.name, limit)).tokens
        lengths.add(len(tokens))
        return tokens

    law = law_of(program)
    assert len(lengths) > 1 or constraint is not None
    return variation(law, wanted or ModelLaw(target, params), max(lengths))
