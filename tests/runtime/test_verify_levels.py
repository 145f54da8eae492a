"""A level as a drafter, by enumeration: what it drafts has its own law, not that of the drafter below it."""

from __future__ import annotations

import pytest

from runtime.draft import Kind, make_chain
from runtime.verify.coins import Coins
from tests.runtime.enumeration import (
    DETECTED,
    EXACT,
    RULES,
    Rule,
    Table,
    Tokens,
    drawn_chain,
    emitted,
    judge,
    law_of,
    path_to,
    variation,
)


def inner_level(rule: Rule, bottom: Table, middle: Table, rounds: int, coins: Coins) -> Tokens:
    """Tokens that ``middle`` emits with ``bottom`` as its drafter; cut at three where there are several rounds."""
    tokens: Tokens = ()
    for _ in range(rounds):
        draft = drawn_chain(bottom, 2, coins, tokens)
        start = tokens
        verdict = rule(draft, lambda node, d=draft, s=start: middle((*s, *path_to(d, node))), coins)  # type: ignore[misc]
        tokens = (*tokens, *emitted(draft, verdict))
    return tokens if rounds == 1 else tokens[:3]


@pytest.mark.parametrize("inner", ["recursive", "block"])
@pytest.mark.parametrize("outer", ["recursive", "block"])
@pytest.mark.parametrize(("rounds", "vocab"), [(1, 3), (2, 2)], ids=["one-round", "cut-at-three"])
def test_a_verified_level_drafts_with_its_own_distribution(inner: str, outer: str, rounds: int, vocab: int) -> None:
    target, middle, bottom = Table(21, vocab, holes=0), Table(22, vocab, holes=0), Table(23, vocab, holes=0)

    def program(coins: Coins, claimed: Table) -> Tokens:
        tokens = inner_level(RULES[inner], bottom, middle, rounds, coins)
        probs = {node - 1: claimed(tokens[:node]) for node in range(len(tokens))}
        return judge(RULES[outer], make_chain(tokens, kind=Kind.INDEPENDENT, probs=probs), target, coins)

    assert variation(law_of(lambda coins: program(coins, middle)), target, 4) < EXACT
    if rounds == 1 and inner == outer:
        assert variation(law_of(lambda coins: program(coins, bottom)), target, 4) > DETECTED
