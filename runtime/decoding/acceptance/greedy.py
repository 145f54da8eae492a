"""Greedy acceptance: follows the target's most probable token while the draft has it."""

from __future__ import annotations

from runtime.arrays import FloatArray
from runtime.decoding.acceptance.rows import TargetRows
from runtime.decoding.acceptance.sample_and_match import match_walk
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, Verdict
from runtime.decoding.sampling import SamplingError


class GreedyVerifier:
    """The rule at temperature 0: it yields the tokens of plain greedy decoding."""

    name = "greedy"
    exact = True

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft``; SamplingError at a temperature above 0, where following the argmax would not be exact."""
        if context.sampling.temperature != 0:
            raise SamplingError(
                f"greedy acceptance at temperature {context.sampling.temperature}, allowed: 0; use the match verifier"
            )
        return match_walk(draft, TargetRows(draft, logits, context).token)
