"""A drafter that knows the answer: an upper bound for what any drafter can gain, at no cost of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.arrays import TokenArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, make_chain


class OracleDrafter:
    """Drafts the known continuation of a text; an empty draft for a text that it does not know."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._texts: list[TokenArray] = []

    def learn(self, text: Sequence[int]) -> None:
        """Remembers ``text``, the token ids of a prompt with its answer."""
        self._texts.append(np.array(text, np.int32))

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``."""
        so_far = context.tokens
        for text in self._texts:
            if len(text) > len(so_far) and np.array_equal(text[: len(so_far)], so_far):
                following = text[len(so_far) : len(so_far) + min(limit.nodes, limit.depth)]
                return make_chain(following.tolist(), source=self.name)
        return Draft(source=self.name)
