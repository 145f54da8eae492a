"""A table of what follows a few tokens as a drafter: trees without a model, adapted to the conversation.

As in ADED (arXiv 2407.12021) the tree is the one with the best chances, by a table that was counted in a large corpus
and changes with what is being said. Here the table stays as it is, and what the conversation repeats goes first: the
chance of a token is that by repetition, and what is left of 1 is divided as the table says. Contexts of three tokens,
of two and of one are interpolated as by Witten and Bell (1991).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from memory.drafter_spec import DrafterSpec
from runtime.bundle.draft_table import LENGTHS, DraftTable
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.drafters.best_first import Continued, draft_best_first
from runtime.drafters.registry import DrafterResources
from runtime.drafters.suffix import Occurrence, OtherTexts, Repetition, following

NAME = "table"
# The usual most nodes of a tree: with the last token, the rows that kernels run at once.
LONGEST = 7
# Nodes of a smaller chance are not worth their row. On answers of the demo target, of trees of 7 nodes: 2.0 tokens a
# step with 0.04, 1.85 with 0.1 (2026-11-29).
_MIN_CHANCE = 0.05
# How many of the most probable tokens are weighed at a node.
_WIDTH = 8
# A context that was seen once is believed a little less than Witten and Bell do.
_DOUBT = 0.5


def make(spec: DrafterSpec, resources: DrafterResources) -> TableDrafter:
    """The drafter for a bundle with a table; KeyError if it has none."""
    return TableDrafter(resources.table, resources.other_texts)


class _SearchPlace(NamedTuple):
    """A place in the search: its last tokens, and the occurrences of the path to it."""

    tail: tuple[int, ...]
    here: list[Occurrence]


class TableDrafter:
    """Drafts trees from ``table``, and from repetition in the conversation and in ``others``.

    ``Draft.expected`` is the sum of the chances of its nodes. Drafts are ONE_HOT.
    """

    name = NAME

    def __init__(self, table: DraftTable, others: OtherTexts | None = None) -> None:
        self._table = table
        self._repetition = Repetition(others)

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``."""
        limit = limit.within(limit.nodes, limit.nodes)
        root = _SearchPlace(tuple(context.tokens[-LENGTHS:].tolist()), self._repetition.find(context, limit.depth))
        return draft_best_first(self._following, root, limit, limit.floor or _MIN_CHANCE, self.name)

    def _following(self, place: _SearchPlace, depth: int) -> list[Continued[_SearchPlace]]:
        """The most probable next tokens."""
        repeated = {token: (chance, here) for chance, token, here in following(place.here, depth)} if place.here else {}
        left = 1.0 - sum(chance for chance, _ in repeated.values())
        chances = {token: left * chance for token, chance in self._by_table(place.tail).items()}
        for token, (chance, _) in repeated.items():
            chances[token] = chances.get(token, 0.0) + chance
        best = sorted(chances.items(), key=lambda each: (-each[1], each[0]))[:_WIDTH]
        nothing: list[Occurrence] = []
        return [
            Continued(
                chance, token, _SearchPlace((*place.tail, token)[-LENGTHS:], repeated.get(token, (0.0, nothing))[1])
            )
            for token, chance in best
        ]

    def _by_table(self, tail: Sequence[int]) -> dict[int, float]:
        """The chances of what follows ``tail``: those of shorter contexts first, then of longer ones."""
        chances: dict[int, float] = {}
        for length in range(1, len(tail) + 1):
            found = self._table.followers(tail[-length:])
            if found is None:
                continue
            novelty = found.distinct + _DOUBT
            shorter = novelty / (found.seen + novelty)
            chances = {token: shorter * chance for token, chance in chances.items()}
            for token, count in zip(found.tokens, found.counts, strict=True):
                chances[token] = chances.get(token, 0.0) + count / (found.seen + novelty)
        return chances
