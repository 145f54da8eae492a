"""Every random outcome of a program, weighed: its law to the last digit, without statistics.

What is judged are the production functions; only their source of randomness is replaced.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from runtime.decoding.acceptance.block import block_walk
from runtime.decoding.acceptance.coins import Coins
from runtime.decoding.acceptance.recursive import recursive_walk
from runtime.decoding.acceptance.sample_and_match import match_walk
from runtime.decoding.draft import Draft, DrawKind, Verdict, make_chain

EXACT = 1e-12
DETECTED = 0.01

Tokens = tuple[int, ...]
Rule = Callable[[Draft, Callable[[int], Any], Coins], Verdict]


class ScriptedCoins:
    """Takes the choices of ``script``, then the first possible one, and notes which others there were."""

    def __init__(self, script: Tokens) -> None:
        self.script = script
        self.weight = 1.0
        self.others: list[Tokens] = []
        self._taken: list[int] = []

    def accept(self, probability: float) -> bool:
        chance = min(1.0, probability)
        return bool(self._choose([(True, chance), (False, 1.0 - chance)]))

    def draw(self, probs: Any) -> int:
        exact = np.asarray(probs, np.float64)
        exact = exact / exact.sum()
        return int(self._choose(list(enumerate(exact.tolist()))))

    def _choose(self, options: list[tuple[Any, float]]) -> Any:
        options = [option for option in options if option[1] > 0]
        place = len(self._taken)
        if place >= len(self.script):
            self.others += [(*self._taken, other) for other in range(1, len(options))]
        choice = self.script[place] if place < len(self.script) else 0
        self._taken.append(choice)
        self.weight *= options[choice][1]
        return options[choice][0]


def law_of(program: Callable[[ScriptedCoins], Tokens]) -> dict[Tokens, float]:
    """The probability of every result of ``program``."""
    law: dict[Tokens, float] = defaultdict(float)
    scripts: list[Tokens] = [()]
    while scripts:
        coins = ScriptedCoins(scripts.pop())
        law[program(coins)] += coins.weight
        scripts += coins.others
    return law


class Table:
    """A language model: a random distribution after every prefix, some of them with impossible tokens."""

    def __init__(self, seed: int, vocab: int, sharpness: float = 1.5, holes: float = 0.15) -> None:
        self.vocab = vocab
        self._seed = seed
        self._shape = (sharpness, holes)
        self._rows: dict[Tokens, Any] = {}

    def __call__(self, prefix: Tokens) -> Any:
        if prefix not in self._rows:
            sharpness, holes = self._shape
            rng = np.random.default_rng([self._seed, len(prefix), *prefix])
            row = np.exp(rng.standard_normal(self.vocab) * sharpness)
            row[rng.random(self.vocab) < holes] = 0
            row[rng.integers(self.vocab)] += 0.1
            self._rows[prefix] = row / row.sum()
        return self._rows[prefix]


def path_to(draft: Draft, node: int) -> Tokens:
    tokens: Tokens = ()
    while node >= 0:
        tokens, node = (draft.tokens[node], *tokens), draft.parents[node]
    return tokens


def emitted(draft: Draft, verdict: Verdict) -> Tokens:
    assert all(draft.parents[node] == parent for parent, node in itertools.pairwise((-1, *verdict.path)))
    return (*(draft.tokens[node] for node in verdict.path), verdict.token)


def judge(rule: Rule, draft: Draft, target: Table, coins: Coins) -> Tokens:
    return emitted(draft, rule(draft, lambda node: target(path_to(draft, node)), coins))


def variation(law: dict[Tokens, float], target: Table, length: int) -> float:
    """Total variation between the first ``length`` tokens and the target's; what a step leaves, the target goes on."""

    def probability(tokens: Tokens, first: int) -> float:
        return float(np.prod([target(tokens[:i])[tokens[i]] for i in range(first, len(tokens))]))

    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    distance = 0.0
    for tokens in itertools.product(range(target.vocab), repeat=length):
        ours = sum(law.get(tokens[:n], 0.0) * probability(tokens, n) for n in range(1, length + 1))
        distance += abs(ours - probability(tokens, 0))
    return distance / 2


def match(draft: Draft, target: Callable[[int], Any], coins: Coins) -> Verdict:
    return match_walk(draft, lambda node: coins.draw(target(node)))


RULES: dict[str, Rule] = {"match": match, "recursive": recursive_walk, "block": block_walk}


# Drafters: each draws from ``coins`` what it draws.


def drawn_chain(table: Table, depth: int, coins: Coins, prefix: Tokens = ()) -> Draft:
    tokens: list[int] = []
    probs = {}
    for node in range(depth):
        probs[node - 1] = table((*prefix, *tokens)).astype(np.float32)
        tokens.append(coins.draw(probs[node - 1]))
    return make_chain(tokens, kind=DrawKind.INDEPENDENT, probs=probs)


def tree(table: Table, widths: Sequence[int], kind: DrawKind, coins: Coins) -> Draft:
    """A tree with ``widths[d]`` children for every node at depth d."""
    tokens: list[int] = []
    parents: list[int] = []
    probs: dict[int, Any] = {}
    level = [-1]
    for width in widths:
        fresh = []
        for parent in level:
            row = table(path_to(Draft(tuple(tokens), tuple(parents)), parent)).astype(np.float32)
            for token in siblings(row, width, kind, coins):
                fresh.append(len(tokens))
                tokens.append(token)
                parents.append(parent)
            if kind is not DrawKind.ONE_HOT:
                probs[parent] = row
        level = fresh
    return Draft(tuple(tokens), tuple(parents), kind, probs)


def siblings(row: Any, width: int, kind: DrawKind, coins: Coins) -> Iterator[int]:
    if kind is DrawKind.ONE_HOT:
        yield from np.argsort(-row, kind="stable")[:width].tolist()
    elif kind is DrawKind.INDEPENDENT:
        yield from (coins.draw(row) for _ in range(width))
    else:
        row = row.astype(np.float64) / row.sum(dtype=np.float64)
        for _ in range(min(width, np.count_nonzero(row))):
            token = coins.draw(row)
            yield token
            row[token] = 0
            row /= max(row.sum(), 1e-300)
