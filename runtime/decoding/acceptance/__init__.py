"""Acceptance rules: which drafted tokens stand, and the one token more that every step yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, FloatArray


@dataclass(frozen=True)
class Verdict:
    """``path``: accepted nodes from the anchor down. ``token``: the correction after a rejection, else the bonus."""

    path: tuple[int, ...]
    token: int


class Verifier(Protocol):
    """One acceptance rule. ``exact`` says whether its output has the target's own law."""

    name: str
    exact: bool

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft`` by ``logits``, float32 ``[1 + nodes, vocab]``: row 0 follows the anchor."""
        ...
