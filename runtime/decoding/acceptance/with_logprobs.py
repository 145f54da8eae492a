"""Any acceptance rule, with the log probabilities of the tokens it lets stand."""

from __future__ import annotations

from dataclasses import replace

from runtime.arrays import FloatArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, Verdict, row_of
from runtime.decoding.logprobs import token_logprob
from runtime.decoding.protocols import Verifier


class WithLogprobs:
    """Judges as ``rule`` does. Each token of a verdict is reported by the row of logits that precedes it.

    These are the rows that ``rule`` is given: there is no second forward. ``top`` alternatives are listed per token.
    """

    def __init__(self, rule: Verifier, top: int) -> None:
        self._rule, self._top = rule, top
        self.name, self.exact = rule.name, rule.exact

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """See ``Verifier``."""
        verdict = self._rule.accept(draft, logits, context)
        tokens = [*(draft.tokens[node] for node in verdict.path), verdict.token]
        rows = [logits[row_of(node)] for node in (-1, *verdict.path)]
        found = tuple(token_logprob(row, token, self._top) for row, token in zip(rows, tokens, strict=True))
        return replace(verdict, logprobs=found)
