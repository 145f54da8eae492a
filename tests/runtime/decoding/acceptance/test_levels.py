"""A level as a drafter, by enumeration: what it drafts has its own law, not that of the drafter below it."""

from __future__ import annotations

import pytest

from runtime.decoding.acceptance.coins import Coins
from runtime.decoding.draft import DrawKind, make_chain
from tests.runtime.decoding.acceptance.enumeration import (
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
    tree,
    variation,
)

# As far off as the mistake of claiming the drafter's distributions is at least.
CLEARLY = 0.05


def inner_level(rule: Rule, tree_below: bool, bottom: Table, middle: Table, rounds: int, coins: Coins) -> Tokens:
    """Tokens that ``middle`` emits with ``bottom`` as its drafter; cut at three where there are several rounds."""
    tokens: Tokens = ()
    for _ in range(rounds):
        start = tokens
        if tree_below:
            draft = tree(lambda path, s=start: bottom((*s, *path)), (2,), DrawKind.WITHOUT_REPLACEMENT, coins)
        else:
            draft = drawn_chain(bottom, 2, coins, tokens)
        verdict = rule(draft, lambda node, d=draft, s=start: middle((*s, *path_to(d, node))), coins)  # type: ignore[misc]
        tokens = (*tokens, *emitted(draft, verdict))
    return tokens if rounds == 1 else tokens[:3]


@pytest.mark.parametrize(("inner", "tree_below"), [*((rule, False) for rule in RULES), ("recursive", True)])
@pytest.mark.parametrize("outer", [*RULES, "one-hot"])
@pytest.mark.parametrize(("rounds", "vocab"), [(1, 3), (2, 2)], ids=["one-round", "cut-at-three"])
def test_a_verified_level_drafts_with_its_own_distribution(
    inner: str, tree_below: bool, outer: str, rounds: int, vocab: int
) -> None:
    target, middle, bottom = Table(21, vocab, holes=0), Table(22, vocab, holes=0), Table(23, vocab, holes=0)

    def program(coins: Coins, claimed: Table) -> Tokens:
        tokens = inner_level(RULES[inner], tree_below, bottom, middle, rounds, coins)
        if outer == "one-hot":  # nothing is claimed of how the tokens came about
            return judge(RULES["recursive"], make_chain(tokens), target, coins)
        probs = {node - 1: claimed(tokens[:node]) for node in range(len(tokens))}
        return judge(RULES[outer], make_chain(tokens, kind=DrawKind.INDEPENDENT, probs=probs), target, coins)

    assert variation(law_of(lambda coins: program(coins, middle)), target, 4) < EXACT
    if rounds == 1 and outer in ("block", "recursive"):
        assert variation(law_of(lambda coins: program(coins, bottom)), target, 4) > CLEARLY
