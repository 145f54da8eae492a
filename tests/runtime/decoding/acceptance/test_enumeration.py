"""Acceptance rules proven exact: every random outcome is enumerated and weighed, and compared with the target's law."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.decoding.acceptance.coins import Coins
from runtime.decoding.acceptance.recursive import recursive_walk
from runtime.decoding.draft import Draft, DrawKind
from tests.runtime.decoding.acceptance.enumeration import (
    EXACT,
    RULES,
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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(6))
def test_chains_keep_the_target_law(rule: str, seed: int) -> None:
    vocab, depth = (4, 2) if seed % 2 else (3, 3)
    target, drafter = Table(seed, vocab), Table(seed + 100, vocab)
    law = law_of(lambda coins: judge(RULES[rule], drawn_chain(drafter, depth, coins), target, coins))
    assert variation(law, target, depth + 1) < EXACT


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", DrawKind)
@pytest.mark.parametrize("widths", [(3,), (1, 1, 1), (2, 1), (2, 2), (3, 1), (1, 3)])
def test_trees_of_every_kind_keep_the_target_law(rule: str, kind: DrawKind, widths: tuple[int, ...]) -> None:
    target, drafter = Table(sum(widths), 3), Table(17 + widths[0], 3)
    law = law_of(lambda coins: judge(RULES[rule], tree(drafter, widths, kind, coins), target, coins))
    assert variation(law, target, len(widths) + 1) < EXACT


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("target_vocab", "draft_vocab"), [(4, 3), (3, 4)])
@pytest.mark.parametrize("kind", DrawKind)
def test_vocabularies_of_different_width(rule: str, target_vocab: int, draft_vocab: int, kind: DrawKind) -> None:
    target, drafter = Table(5, target_vocab), Table(6, draft_vocab, holes=0)

    def program(coins: Coins) -> Tokens:
        draft = tree(drafter, (2, 1), kind, coins)
        # A row of the target exists for every node, even where the drafted token is none of the target's.
        known = lambda node: target(tuple(min(token, target_vocab - 1) for token in path_to(draft, node)))  # noqa: E731
        return emitted(draft, RULES[rule](draft, known, coins))

    assert variation(law_of(program), target, 3) < EXACT


@pytest.mark.parametrize("rule", RULES)
def test_a_drafter_equal_to_the_target_is_always_accepted(rule: str) -> None:
    target = Table(3, 3)
    law = law_of(lambda coins: judge(RULES[rule], drawn_chain(target, 2, coins), target, coins))
    assert variation(law, target, 3) < EXACT
    if rule != "match":
        assert sum(weight for tokens, weight in law.items() if len(tokens) == 3) == pytest.approx(1, abs=1e-6)


def test_block_accepts_at_least_as_much_as_token_by_token() -> None:
    gains = []
    for seed in range(20):
        target, drafter = Table(seed, 3), Table(seed + 50, 3)
        mean = {}
        for name in ("recursive", "block"):
            rule = RULES[name]
            law = law_of(lambda coins, r=rule, d=drafter, t=target: judge(r, drawn_chain(d, 3, coins), t, coins))  # type: ignore[misc]
            mean[name] = sum(weight * len(tokens) for tokens, weight in law.items())
        assert mean["block"] >= mean["recursive"] - 1e-9
        gains.append(mean["block"] / mean["recursive"])
    assert np.mean(gains) > 1.01


def test_an_invented_sibling_is_passed_over() -> None:
    """A node its own distribution excludes cannot be judged by it, and leaves the law alone."""
    target, drafter = Table(4, 3), np.array([0.5, 0.5, 0.0], np.float32)

    def program(coins: Coins) -> Tokens:
        drawn = coins.draw(drafter)
        draft = Draft((2, drawn), (-1, -1), DrawKind.INDEPENDENT, {-1: drafter})
        return judge(recursive_walk, draft, target, coins)

    assert variation(law_of(program), target, 2) < EXACT
