"""Mistakes found in published code, made on purpose: enumeration must find each, and the right way exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.decoding.acceptance.coins import Coins
from runtime.decoding.acceptance.recursive import recursive_walk
from runtime.decoding.draft import Draft, DrawKind, Verdict, make_chain
from tests.runtime.decoding.acceptance.enumeration import (
    DETECTED,
    EXACT,
    RULES,
    ScriptedCoins,
    Table,
    Tokens,
    drawn_chain,
    emitted,
    judge,
    law_of,
    match,
    path_to,
    tree,
    variation,
)


def stopping_chain(table: Table, coins: Coins, keep: bool) -> Draft:
    """Drafts up to three tokens, stopping at an improbable one, which it keeps or throws away."""
    draft = drawn_chain(table, 3, coins)
    sure = [float(draft.probs[node - 1][token]) >= 0.4 for node, token in enumerate(draft.tokens)]
    length = next((node + keep for node in range(3) if not sure[node]), 3)
    return make_chain(
        draft.tokens[:length], kind=draft.kind, probs={node - 1: draft.probs[node - 1] for node in range(length)}
    )


@pytest.mark.parametrize("rule", ["recursive", "block"])
def test_stopping_after_an_improbable_token_is_exact_and_dropping_it_is_not(rule: str) -> None:
    target, drafter = Table(8, 3), Table(9, 3)
    kept, dropped = (
        variation(
            law_of(lambda coins, k=keep: judge(RULES[rule], stopping_chain(drafter, coins, k), target, coins)),
            target,
            4,
        )  # type: ignore[misc]
        for keep in (True, False)
    )
    assert kept < EXACT
    assert dropped > DETECTED


class SharedCoins:
    """Verifies the first token with the number that already decided to draft it, known to be below ``bound``."""

    def __init__(self, coins: Coins, bound: float) -> None:
        self._coins, self._bound, self._first = coins, bound, True

    def accept(self, probability: float) -> bool:
        first, self._first = self._first, False
        return self._coins.accept(min(probability, self._bound) / self._bound if first else probability)

    def draw(self, probs: Any) -> int:
        return self._coins.draw(probs)


@pytest.mark.parametrize("shared", [False, True])
def test_one_number_for_stopping_and_accepting(shared: bool) -> None:
    target, drafter = Table(8, 3), Table(9, 3)

    def program(coins: ScriptedCoins) -> Tokens:
        if not coins.accept(0.6):
            return judge(recursive_walk, Draft(), target, coins)
        verifying: Coins = SharedCoins(coins, 0.6) if shared else coins
        return judge(recursive_walk, drawn_chain(drafter, 1, coins), target, verifying)

    distance = variation(law_of(program), target, 2)
    assert distance > DETECTED if shared else distance < EXACT


@pytest.mark.parametrize("rule", ["recursive", "block", "match"])
@pytest.mark.parametrize("filtered", [True, False])
def test_the_bonus_must_be_filtered_too(rule: str, filtered: bool) -> None:
    raw, drafter = Table(15, 3, holes=0), Table(16, 3, holes=0)

    class Filtered(Table):
        def __call__(self, prefix: Tokens) -> Any:
            row = raw(prefix).copy()
            row[row.argmin()] = 0
            return row / row.sum()

    target = Filtered(0, 3)

    def program(coins: Coins) -> Tokens:
        draft = drawn_chain(drafter, 2, coins)
        rows = lambda node: (target if filtered or node < 1 else raw)(path_to(draft, node))  # noqa: E731
        return emitted(draft, RULES[rule](draft, rows, coins))

    distance = variation(law_of(program), target, 3)
    assert distance < EXACT if filtered else distance > DETECTED


@pytest.mark.parametrize("claimed", [DrawKind.INDEPENDENT, DrawKind.WITHOUT_REPLACEMENT])
def test_chosen_siblings_must_not_be_judged_as_drawn(claimed: DrawKind) -> None:
    target, drafter = Table(13, 3), Table(14, 3)

    def program(coins: Coins) -> Tokens:
        draft = tree(drafter, (2,), DrawKind.ONE_HOT, coins)
        return judge(recursive_walk, replace(draft, kind=claimed, probs={-1: drafter(())}), target, coins)

    assert variation(law_of(program), target, 2) > DETECTED


def test_replacement_must_not_be_confused() -> None:
    """Siblings without replacement are no independent draws; the other way round it costs acceptance alone."""
    target, drafter = Table(13, 4, holes=0), Table(14, 4, holes=0)

    def program(coins: Coins, drawn: DrawKind, claimed: DrawKind) -> Tokens:
        return judge(recursive_walk, replace(tree(drafter, (3,), drawn, coins), kind=claimed), target, coins)

    independent, without = DrawKind.INDEPENDENT, DrawKind.WITHOUT_REPLACEMENT
    assert variation(law_of(lambda coins: program(coins, without, independent)), target, 2) > DETECTED
    assert variation(law_of(lambda coins: program(coins, independent, without)), target, 2) < EXACT


def typical(draft: Draft, target: Callable[[int], Any], coins: Coins) -> Verdict:
    """Typical acceptance (Medusa), which is not exact."""
    path: list[int] = []
    for node, token in enumerate(draft.tokens):
        probs = target(node - 1)
        entropy = -sum(p * np.log(p) for p in probs if p > 0)
        if probs[token] <= min(0.3, 0.09 * np.exp(-entropy)):
            break
        path.append(node)
    return Verdict(tuple(path), coins.draw(target(len(path) - 1)))


def test_typical_acceptance_is_detected() -> None:
    target, drafter = Table(15, 3), Table(16, 3)
    law = law_of(lambda coins: judge(typical, drawn_chain(drafter, 2, coins), target, coins))
    assert variation(law, target, 3) > DETECTED


def test_drawing_once_per_path_is_detected() -> None:
    """One draw per path row, the best path accepted, a fresh draw on failure: .84/.13/.03 instead of .5/.3/.2."""
    target = Table(0, 3)
    target._rows[()] = np.array([0.5, 0.3, 0.2])
    first_tokens = (0, 0, 1)  # three leaves, two of them below child 0

    def program(coins: Coins) -> Tokens:
        hits = [token for token in first_tokens if coins.draw(target(())) == token]
        return (min(hits),) if hits else (coins.draw(target(())),)

    law = law_of(program)
    assert [law[(token,)] for token in range(3)] == pytest.approx([0.84, 0.13, 0.03], abs=0.006)
    draft = Draft((0, 1), (-1, -1))
    assert variation(law_of(lambda coins: judge(match, draft, target, coins)[:1]), target, 1) < EXACT
