"""Decodes one answer after another in one context, with whatever models are open."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from runtime.arrays import TokenArray
from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.request import Constrained
from runtime.context_overflow import Refit
from runtime.decoding.acceptance.with_logprobs import WithLogprobs
from runtime.decoding.constrained import EndingWith
from runtime.decoding.constraint import Constraint
from runtime.decoding.context import Context
from runtime.decoding.draft import Step
from runtime.decoding.logprobs import check_alternatives
from runtime.decoding.protocols import StoppingCriterion
from runtime.open_models import PlannedModels
from runtime.sessions.engine_rows import EngineRows
from runtime.speculation.decoding_settings import DecodingSettings
from runtime.speculation.request import NONE, Speculation
from runtime.speculation.speculator import Strategy
from runtime.text.prompt import check_ids
from runtime.text.tokenizer import Tokenizer


class Answering:
    """Answers in ``context``, beginning with the rows that ``rows`` holds. It calls ``notify`` with lines for users.

    ``remember`` gets the tokens of a prompt with its answer when that ends.
    """

    def __init__(
        self,
        models: PlannedModels,
        context: Context,
        rows: EngineRows,
        tokenizer: Tokenizer,
        ends: Sequence[int],
        notify: Callable[[str], None],
        remember: Callable[[TokenArray], None] | None = None,
    ) -> None:
        self._remember = remember
        self._models, self._context, self._rows, self._tokenizer = models, context, rows, tokenizer
        self._constraints = ConstraintCompiler(tokenizer, models.target.vocab_size, ends, models.count_constraints)
        self._notify, self._near_ties_reported = notify, False

    def check(self, tokens: Sequence[int]) -> list[int]:
        """``tokens`` as integers; TokenizerError for an id without an embedding in the target."""
        return check_ids(tokens, self._models.target.vocab_size, self._tokenizer)

    def matcher(self, constraint: Constrained | None) -> Constraint | None:
        """What keeps one answer to ``constraint``; ConstraintError if it cannot be compiled."""
        return None if constraint is None else self._constraints.matcher(constraint)

    def is_exact(self, speculation: Speculation) -> bool:
        """Whether answers equal those of plain decoding on this device; False: only up to near ties of logits."""
        widths = self._models.target.widths
        return widths.exact and (widths.tree or speculation.drafter == NONE or not speculation.asks_for_trees)

    def steps(
        self,
        tokens: Sequence[int],
        stop: StoppingCriterion,
        settings: DecodingSettings,
        refit: Refit | None,
        matcher: Constraint | None,
    ) -> Generator[Step, None, None]:
        """The steps that continue ``tokens``; ``stop``, ``matcher`` or, without ``refit``, a full context end them."""
        context = self._context
        self._rows.turn_to(tokens)
        strategy = self._strategy(settings)
        self._report_near_ties(settings.speculation)
        context.sampling, context.constraint = settings.sampling, matcher
        stop = stop if matcher is None else EndingWith(stop, matcher)

        def keep(tokens: Sequence[int], capacity: int) -> list[int] | None:
            kept = None if refit is None else refit(tokens, capacity)
            return None if kept is None else self.check(kept)

        steps = self._models.steps(tokens, stop, strategy, context, keep, settings.left_out)
        return steps if self._remember is None else self._remembered(steps, self._remember)

    def _remembered(
        self, steps: Generator[Step, None, None], remember: Callable[[TokenArray], None]
    ) -> Generator[Step, None, None]:
        """``steps``, and what was said until their end, or until they were cancelled, is remembered."""
        try:
            yield from steps
        finally:
            steps.close()
            remember(self._context.tokens)

    def _strategy(self, settings: DecodingSettings) -> Strategy:
        strategy = self._models.speculator.strategy(settings.speculation, settings.sampling, self._context)
        if settings.logprobs is None:
            return strategy
        top = check_alternatives(settings.logprobs, self._models.target.vocab_size)
        return replace(strategy, verifier=WithLogprobs(strategy.verifier, top))

    def _report_near_ties(self, speculation: Speculation) -> None:
        """Notifies once, before the first token, that trees are exact only up to near ties.

        If nothing is exact on this device, that was reported when the bundle was opened.
        """
        if self._models.target.widths.exact and not self._near_ties_reported and not self.is_exact(speculation):
            self._near_ties_reported = True
            self._notify("rows of a tree do not agree bit for bit with those of a chain here: exact up to near ties")
