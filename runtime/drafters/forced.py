"""What a constraint forces as a draft: free, and always accepted.

Where a grammar leaves one way to go on, such as the keys and the punctuation of a JSON object, the target has no choice
and still has to read the tokens. As a draft they are read in one forward.
"""

from __future__ import annotations

from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, make_chain
from runtime.drafters.registry import GRAMMAR


class ForcedDrafter:
    """Drafts the tokens that the context's constraint forces; an empty draft if there are none."""

    name = GRAMMAR

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``."""
        forced = () if context.constraint is None else context.constraint.forced()
        return make_chain(forced[: min(limit.nodes, limit.depth)], source=self.name)
