"""The account: whatever the drafts do, no more is lost against plain decoding than a small share of the time."""

from __future__ import annotations

import random

from runtime.scheduler.account import Account

PLAIN = 0.03
# A step that verifies a draft in vain, and one that brings three tokens.
LOST, WON = 1.4 * PLAIN, (3, 1.4 * PLAIN)


def _lost(account: Account, steps: int) -> float:
    """Plain steps lost by somebody who drafts in vain whenever the account affords it."""
    seconds = 0.0
    for _ in range(steps):
        taken = LOST if account.affords(LOST - PLAIN, PLAIN) else PLAIN
        account.settle(1, taken, PLAIN)
        seconds += taken
    return seconds / PLAIN - steps


def test_drafts_in_vain_lose_two_plain_steps_and_a_two_hundredth_of_the_time() -> None:
    for steps in (50, 500, 5000):
        assert 0 < _lost(Account(), steps) <= 2 + 0.005 * 1.01 * steps


def test_what_was_won_pays_for_later_losses_up_to_sixteen_plain_steps() -> None:
    account = Account()
    for _ in range(1000):
        account.settle(*WON, PLAIN)
    assert 10 < _lost(account, 200) <= 16 + 0.005 * 1.01 * 200


def test_nothing_is_begun_that_would_overdraw_it() -> None:
    rng = random.Random(5)
    account, lost = Account(), 0.0
    for _ in range(2000):
        loss = rng.uniform(0.0, 3.0) * PLAIN
        taken = PLAIN + loss if account.affords(loss, PLAIN) else PLAIN
        account.settle(1, taken, PLAIN)
        lost += taken - PLAIN - 0.005 * taken
        assert lost <= 2 * PLAIN


def test_a_single_good_draft_is_enough_to_go_on() -> None:
    account = Account()
    while account.affords(LOST - PLAIN, PLAIN):
        account.settle(1, LOST, PLAIN)
    account.settle(*WON, PLAIN)
    assert account.affords(LOST - PLAIN, PLAIN)
