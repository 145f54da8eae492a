"""Several drafters in order of preference: the first draft that promises enough is taken.

A drafter that costs nothing and knows when it is right, such as the suffix drafter, goes before one that costs a
forward for each token.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.decoding.constrained import allowed_part
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.protocols import Drafter


class FallbackDrafter:
    """Asks ``drafters`` in turn; the draft of the last one is always taken.

    A draft of another one is taken if it expects at least ``min_expected`` accepted tokens (``Draft.expected``), or if
    it has no estimate and is not empty. ``Draft.source`` names the drafter.
    """

    def __init__(self, drafters: Sequence[Drafter], name: str = "fallback", min_expected: float = 1.0) -> None:
        assert drafters
        self.name = name
        self._drafters, self._min_expected = tuple(drafters), min_expected

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``."""
        for drafter in self._drafters[:-1]:
            draft = allowed_part(drafter.propose(context, limit), context.constraint)
            if len(draft) and (draft.expected is None or draft.expected >= self._min_expected):
                return draft
        return self._drafters[-1].propose(context, limit)
