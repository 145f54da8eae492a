"""Drafters for tests: from all-knowing to hopeless, and one that follows a script. Drafts keep within their limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.sampling import draw, greedy_token, probabilities, uniform
from tests.runtime.table_model import TableModel


def plain_token(model: TableModel, tokens: Sequence[int], context: Context) -> int:
    """What plain decoding puts after ``tokens``, computed without a cache."""
    fresh = TableModel(model.vocab_size, len(tokens) + 1, seed=model.seed)
    fresh.prefill(tokens[:-1])
    logits, params = fresh.forward(tokens[-1:]).logits[0], context.sampling
    if params.temperature == 0:
        return greedy_token(logits, tokens, params)
    return draw(probabilities(logits, tokens, params), uniform(params.seed, len(tokens)))


class Scripted:
    """Trees by script: each entry (parent, right) adds a node, with the token of plain decoding if ``right``.

    Parents are taken modulo the nodes there are, so that any list of pairs is a script.
    """

    name = "scripted"

    def __init__(self, model: TableModel, scripts: Sequence[Sequence[tuple[int, bool]]]) -> None:
        self._model, self._scripts, self._calls = model, scripts, 0

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        script = self._scripts[self._calls % len(self._scripts)] if self._scripts else []
        self._calls += 1
        tokens: list[int] = []
        parents: list[int] = []
        paths: dict[int, list[int]] = {-1: [int(token) for token in context.tokens]}
        for place, right in script[: limit.nodes]:
            parent = place % (len(tokens) + 1) - 1
            depth = len(paths[parent]) - len(context)
            if depth >= limit.depth:
                continue
            token = plain_token(self._model, paths[parent], context)
            token = token if right else (token + 1 + len(tokens)) % self._model.vocab_size
            paths[len(tokens)] = [*paths[parent], token]
            tokens.append(token)
            parents.append(parent)
        return Draft(tuple(tokens), tuple(parents))


class Random:
    """Trees of any shape, of any tokens."""

    name = "random"

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size, self._rng = vocab_size, np.random.default_rng(0)

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        count = int(self._rng.integers(0, min(limit.nodes, limit.depth) + 1))
        parents = [int(self._rng.integers(-1, node)) for node in range(count)]
        return Draft(tuple(self._rng.integers(0, self._vocab_size, count).tolist()), tuple(parents))


class Raising:
    """Fails when asked for the ``when``-th time."""

    name = "raising"

    def __init__(self, when: int) -> None:
        self._left = when

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the drafter failed")
        return Draft((1, 2), (-1, -1))


def perfect(model: TableModel) -> Scripted:
    """A chain that plain decoding would follow to its end."""
    return Scripted(model, [[(node, True) for node in range(12)]])


def bushy(model: TableModel) -> Scripted:
    """The right path, last among wrong siblings at every depth, so that accepted rows never lie together."""
    return Scripted(
        model, [[(0, False), (0, False), (0, True), (3, False), (3, True), (5, False), (5, False), (5, True)]]
    )


def adversarial(model: TableModel) -> Scripted:
    """Wrong at every node."""
    return Scripted(model, [[(0, False), (1, False), (0, False), (2, True)]])


def coin_flips(model: TableModel) -> Scripted:
    """Chains that turn wrong anywhere, or nowhere."""
    flips = np.random.default_rng(1).random((30, 12)) < 0.85
    return Scripted(model, [[(node, bool(right)) for node, right in enumerate(script)] for script in flips])
