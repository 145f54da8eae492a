"""Acceptance rules proven exact: every random outcome is enumerated and weighed, and compared with the target's law.

The rules are the production functions; only their source of randomness is replaced. The mistakes found in published
code are implemented here too, and must show.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.draft import Draft, Kind, make_chain
from runtime.verify import Verdict
from runtime.verify.block import block_walk
from runtime.verify.coins import Coins
from runtime.verify.match import match_walk
from runtime.verify.recursive import recursive_walk

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
    return make_chain(tokens, kind=Kind.INDEPENDENT, probs=probs)


def tree(table: Table, widths: Sequence[int], kind: Kind, coins: Coins) -> Draft:
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
            if kind is not Kind.ONE_HOT:
                probs[parent] = row
        level = fresh
    return Draft(tuple(tokens), tuple(parents), kind, probs)


def siblings(row: Any, width: int, kind: Kind, coins: Coins) -> Iterator[int]:
    if kind is Kind.ONE_HOT:
        yield from np.argsort(-row, kind="stable")[:width].tolist()
    elif kind is Kind.INDEPENDENT:
        yield from (coins.draw(row) for _ in range(width))
    else:
        row = row.astype(np.float64) / row.sum(dtype=np.float64)
        for _ in range(min(width, np.count_nonzero(row))):
            token = coins.draw(row)
            yield token
            row[token] = 0
            row /= max(row.sum(), 1e-300)


# Laws


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(6))
def test_chains_keep_the_target_law(rule: str, seed: int) -> None:
    vocab, depth = (4, 2) if seed % 2 else (3, 3)
    target, drafter = Table(seed, vocab), Table(seed + 100, vocab)
    law = law_of(lambda coins: judge(RULES[rule], drawn_chain(drafter, depth, coins), target, coins))
    assert variation(law, target, depth + 1) < EXACT


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("widths", [(3,), (1, 1, 1), (2, 1), (2, 2), (3, 1), (1, 3)])
def test_trees_of_every_kind_keep_the_target_law(rule: str, kind: Kind, widths: tuple[int, ...]) -> None:
    target, drafter = Table(sum(widths), 3), Table(17 + widths[0], 3)
    law = law_of(lambda coins: judge(RULES[rule], tree(drafter, widths, kind, coins), target, coins))
    assert variation(law, target, len(widths) + 1) < EXACT


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("target_vocab", "draft_vocab"), [(4, 3), (3, 4)])
@pytest.mark.parametrize("kind", Kind)
def test_vocabularies_of_different_width(rule: str, target_vocab: int, draft_vocab: int, kind: Kind) -> None:
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
        draft = Draft((2, drawn), (-1, -1), Kind.INDEPENDENT, {-1: drafter})
        return judge(recursive_walk, draft, target, coins)

    assert variation(law_of(program), target, 2) < EXACT


# Stopping to draft


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


# Mistakes in the distributions


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


@pytest.mark.parametrize("claimed", [Kind.INDEPENDENT, Kind.WITHOUT_REPLACEMENT])
def test_chosen_siblings_must_not_be_judged_as_drawn(claimed: Kind) -> None:
    target, drafter = Table(13, 3), Table(14, 3)

    def program(coins: Coins) -> Tokens:
        draft = tree(drafter, (2,), Kind.ONE_HOT, coins)
        return judge(recursive_walk, replace(draft, kind=claimed, probs={-1: drafter(())}), target, coins)

    assert variation(law_of(program), target, 2) > DETECTED


def test_replacement_must_not_be_confused() -> None:
    """Siblings without replacement are no independent draws; the other way round it costs acceptance alone."""
    target, drafter = Table(13, 4, holes=0), Table(14, 4, holes=0)

    def program(coins: Coins, drawn: Kind, claimed: Kind) -> Tokens:
        return judge(recursive_walk, replace(tree(drafter, (3,), drawn, coins), kind=claimed), target, coins)

    independent, without = Kind.INDEPENDENT, Kind.WITHOUT_REPLACEMENT
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


# A level as a drafter


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
