"""The drafter that knows the answer: right wherever its text is being written, silent elsewhere."""

from __future__ import annotations

import pytest

from runtime.decoding.context import Context
from runtime.decoding.draft import DraftLimit
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.oracle import OracleDrafter


@pytest.mark.parametrize(
    ("committed", "limit", "expected"),
    [
        ([1, 2], DraftLimit(3, 3), (3, 4, 5)),
        ([1, 2], DraftLimit(9, 2), (3, 4)),
        ([1, 2, 3, 4], DraftLimit(4, 4), (5, 6)),
        ([1, 2, 3, 4, 5, 6], DraftLimit(4, 4), ()),
        ([7, 8], DraftLimit(4, 4), (9,)),
        ([1, 8], DraftLimit(4, 4), ()),
    ],
    ids=["as much as wanted", "no deeper than wanted", "what is left", "nothing is left", "another text", "no text"],
)
def test_it_goes_on_as_the_text_does(committed: list[int], limit: DraftLimit, expected: tuple[int, ...]) -> None:
    drafter = OracleDrafter("perfect")
    drafter.learn([1, 2, 3, 4, 5, 6])
    drafter.learn([7, 8, 9])
    context = Context(16, SamplingParams())
    context.append(committed)
    draft = drafter.propose(context, limit)
    assert draft.tokens == expected
    assert draft.is_chain
