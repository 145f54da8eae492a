"""The budget: whatever the drafts do, no more is lost than it holds and a small share of the time."""

from __future__ import annotations

import random

from runtime.scheduler.loss_budget import LossBudget

MOST, SHARE = 2.0, 0.01
# What a draft may lose, in plain steps, and what one wins that brings three tokens.
LOSS, WIN = 0.4, 1.6


def _lost(budget: LossBudget, steps: int) -> float:
    """Plain steps lost by somebody who drafts in vain whenever that is affordable."""
    lost = 0.0
    for _ in range(steps):
        loss = LOSS if budget.affordable >= LOSS else 0.0
        budget.settle(-loss, 1 + loss)
        lost += loss
    return lost


def test_drafts_in_vain_lose_what_there_was_and_a_share_of_the_time() -> None:
    for steps in (50, 500, 5000):
        assert 0 < _lost(LossBudget(SHARE, MOST), steps) <= MOST + SHARE * (steps + MOST) * 1.01


def test_what_was_won_long_ago_does_not_pay_for_what_is_lost_now() -> None:
    budget = LossBudget(SHARE, MOST)
    for _ in range(1000):
        budget.settle(WIN, 1 + LOSS)
    assert _lost(budget, 200) <= MOST + SHARE * 210


def test_no_loss_but_the_first_takes_all_there_is() -> None:
    rng, budget = random.Random(5), LossBudget(SHARE, MOST)
    budget.settle(-0.01, 0.0)
    for _ in range(2000):
        loss = rng.uniform(0.1, 3.0)
        if loss <= budget.affordable:
            before = budget.balance
            budget.settle(-loss, 1 + loss)
            assert budget.balance >= before / 2


def test_there_are_no_debts() -> None:
    """Whatever happened, a draft that risks a fifth of a step can be tried after some tens of tokens."""
    budget = LossBudget(SHARE, MOST)
    budget.settle(-1000.0, 1.0)
    waited = 0
    while budget.affordable < 0.2:
        budget.settle(0.0, 1.0)
        waited += 1
    assert waited <= 50


def test_a_single_good_draft_is_enough_to_go_on() -> None:
    budget = LossBudget(SHARE, MOST)
    budget.settle(-MOST, 1.0)
    budget.settle(WIN, 1 + LOSS)
    assert budget.affordable >= LOSS
