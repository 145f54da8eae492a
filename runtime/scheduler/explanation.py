"""What the scheduler expected of each decoding method and what it delivered, as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runtime.scheduler.learned_state import Prospect


def explanation_lines(prospects: Sequence[Prospect]) -> Iterator[str]:
    """A table with a line for each of ``prospects``."""
    if not prospects:
        yield "note: nothing to explain: the way to decode was given, or there is only one"
        return
    width = max(len(prospect.name) for prospect in prospects)
    yield f"{'':{width}}  expected  realised  tokens"
    for prospect in prospects:
        realised = "-" if prospect.realised is None else f"{prospect.realised:.1f}"
        yield f"{prospect.name:{width}}  {prospect.expected:8.1f}  {realised:>8}  {prospect.tokens:6}"
