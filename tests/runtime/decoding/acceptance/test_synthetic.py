"""Simulated acceptance follows the formulas that predictions are made with, and its luck is nobody's shape."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from export.manifest import PocketspecError
from memory.expected import chain_tokens, tree_tokens
from runtime.bench.contenders import parse_contender
from runtime.bench.simulated import Simulation, constant_chance, parse_simulation
from runtime.decoding.acceptance.synthetic import SyntheticVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, chain_limit, make_chain, tree_limit
from runtime.decoding.sampling import SamplingParams

DRAWS = 4000
# Two roots, two children under the first, one under the second of those.
TREE = Draft((1, 2, 3, 4, 5), (-1, -1, 0, 0, 3))


def _context(position: int, seed: int = 0) -> Context:
    context = Context(8, SamplingParams(seed=seed), first=position)
    context.append([1])
    return context


def _mean(draft: Draft, chances: list[float]) -> float:
    """The mean of tokens over many positions."""
    logits = np.zeros((len(draft) + 1, 9), np.float32)
    verifier = SyntheticVerifier(chances)
    # Far enough apart that no number is used twice.
    verdicts = [verifier.accept(draft, logits, _context(16 * turn)) for turn in range(DRAWS)]
    return sum(len(verdict.path) + 1 for verdict in verdicts) / DRAWS


@pytest.mark.parametrize("chances", [[0.8], [0.9, 0.5, 0.1], [0.0], [1.0]])
def test_chains_are_accepted_as_the_formula_says(chances: list[float]) -> None:
    depth = 4
    full = [chances[min(index, len(chances) - 1)] for index in range(depth)]
    # At most 5 tokens: the error of the mean of 4,000 is below 0.03.
    assert _mean(make_chain(range(depth)), chances) == pytest.approx(chain_tokens(full), abs=0.1)


def test_trees_are_accepted_as_the_enumeration_says() -> None:
    chances = [0.6, 0.7, 0.4]
    expected = 0.0
    paths: dict[tuple[int, ...], float] = {}

    def walk(path: tuple[int, ...], weight: float) -> None:
        chance, left = chances[min(len(path), 2)], weight
        for number, child in enumerate(TREE.children(path[-1] if path else -1)):
            share = weight * chance * (1 - chance) ** number
            left -= share
            walk((*path, child), share)
        paths[path] = left

    walk((), 1.0)
    assert sum(paths.values()) == pytest.approx(1.0)
    expected = sum((len(path) + 1) * weight for path, weight in paths.items())
    assert _mean(TREE, chances) == pytest.approx(expected, abs=0.1)
    logits, verifier = np.zeros((6, 9), np.float32), SyntheticVerifier(chances)
    found = [verifier.accept(TREE, logits, _context(16 * turn)).path for turn in range(DRAWS)]
    for path, weight in paths.items():
        assert found.count(path) / DRAWS == pytest.approx(weight, abs=0.03)


def test_the_last_token_is_the_target_s_most_probable_one() -> None:
    logits = np.zeros((3, 9), np.float32)
    logits[range(3), [4, 5, 6]] = 1
    draft = make_chain([1, 2])
    tokens = {
        len(v.path): v.token for v in (SyntheticVerifier([0.5]).accept(draft, logits, _context(p)) for p in range(99))
    }
    assert tokens == {0: 4, 1: 5, 2: 6}
    assert SyntheticVerifier([0.5]).accept(Draft(), logits, _context(3)).token == 4


def test_contenders_meet_the_same_luck_and_levels_their_own() -> None:
    """A position is judged by one number, whether a step begins there or comes by."""
    verifier, logits = SyntheticVerifier([0.5]), np.zeros((3, 9), np.float32)
    two, one = make_chain([1, 2]), make_chain([2])
    chains = {position: verifier.accept(two, logits, _context(position)).path for position in range(200)}
    for position, path in chains.items():
        if path:
            assert (len(path) == 2) == bool(verifier.accept(one, logits, _context(position + 1)).path)
    below = SyntheticVerifier([0.5], level=1)
    same = sum(
        bool(below.accept(one, logits, _context(p)).path) == bool(verifier.accept(one, logits, _context(p)).path)
        for p in range(2000)
    )
    assert 850 < same < 1150
    other = [verifier.accept(two, logits, _context(p, seed=1)).path for p in range(200)]
    assert other != list(chains.values())


@pytest.mark.parametrize("limit", [chain_limit(5), tree_limit(7), DraftLimit(12, 6, "tree")])
@pytest.mark.parametrize("tokens", [1.0, 2.4, 3.2])
def test_a_published_mean_is_what_its_chance_gives(tokens: float, limit: DraftLimit) -> None:
    chances = [constant_chance(tokens, limit)] * limit.depth
    given = chain_tokens(chances) if limit.shape == "chain" else tree_tokens(chances, limit.nodes)
    assert given == pytest.approx(tokens, abs=1e-9)


def test_acceptance_is_read_as_it_is_written() -> None:
    chain, nested = parse_contender("near-chain3"), parse_contender("far>near-chain6/chain2")
    plain, auto = parse_contender("plain"), parse_contender("auto")
    assert parse_simulation("0.8") == Simulation("0.8", (0.8,))
    assert parse_simulation("0.9,0.8").chances(chain) == ((0.9, 0.8), None)
    assert parse_simulation("0.9/0.7,0.6").chances(nested) == ((0.9,), (0.7, 0.6))
    for contender, depth in ((chain, 3), (nested, 6)):
        chance = parse_simulation("mean:2.5").chances(contender)[0]
        assert chain_tokens(chance * depth) == pytest.approx(2.5)
    target, inner = parse_simulation("mean:3/mean:2").chances(nested)
    assert inner is not None
    assert (chain_tokens(target * 6), chain_tokens(inner * 2)) == (pytest.approx(3), pytest.approx(2))
    fixed = [parse_simulation("mean:2.5@6").chances(each)[0] for each in (chain, nested, auto)]
    assert len(set(fixed)) == 1
    assert chain_tokens(fixed[0] * 6) == pytest.approx(2.5)
    assert parse_simulation("mean:9").chances(plain) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("often", "write a chance, one for every depth as in 0.9,0.8,0.7, or mean:3.2"),
        ("", "write a chance"),
        ("1.2", "a chance lies between 0 and 1"),
        ("0.5,nan", "a chance lies between 0 and 1"),
        ("0.5/0.5/0.5", "at most two parts"),
        ("mean:0.5", "a step brings at least 1 token"),
        ("mean:3@0", "with drafts of at least 1"),
    ],
)
def test_acceptance_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(PocketspecError, match=message):
        parse_simulation(text)


def test_means_out_of_reach_are_refused() -> None:
    with pytest.raises(PocketspecError, match="drafts of near-chain3 are 3 deep and bring 4 tokens at most"):
        parse_simulation("mean:4.5").chances(parse_contender("near-chain3"))
    with pytest.raises(PocketspecError, match=r"how deep auto drafts is not known; .* as in mean:3@6"):
        parse_simulation("mean:3").chances(parse_contender("auto"))
    assert list(itertools.chain(*parse_simulation("mean:4").chances(parse_contender("near-chain3"))[:1])) == [1.0]
