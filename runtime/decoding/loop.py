"""The decoding loop: every step drafts, runs the target, accepts, and commits one token or more.

At the start of a step the cache holds all committed tokens but the last one, the anchor: ``target.cache.length ==
len(context) - 1``. (A level that drafts may lack more of them, since others decide what is committed; these rows are
run in the same forward, before the anchor.) Plain decoding is the same loop with empty drafts. Tokens that a stop rule
cuts off are not kept, and the cache is rolled back before a step is yielded. So closing the generator cancels the
answer, and an error within a step leaves everything as it was before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from time import perf_counter

from runtime.arrays import FloatArray, TokenArray
from runtime.decoding.constrained import allowed_part
from runtime.decoding.context import Context, require_room, shared_prefix
from runtime.decoding.draft import Draft, Pick, Step, Verdict, row_of
from runtime.decoding.protocols import (
    Drafter,
    Drafters,
    DraftsAhead,
    Model,
    Scheduler,
    StoppingCriterion,
    Verifier,
    fitting_rows,
)
from runtime.errors import DraftError

TARGET = "target"


def decode(
    target: Model,
    context: Context,
    drafters: Drafters,
    scheduler: Scheduler,
    verifier: Verifier,
    stop: StoppingCriterion,
    drop: Callable[[DraftError], None] | None = None,
) -> Generator[Step, None, None]:
    """Continues ``context`` until ``stop`` or the context ends it; commits tokens to ``context`` step by step.

    If a drafter is broken, ``drop`` is called, which keeps it from being picked again; None: its error ends the loop.

    The prompt is what ``context`` holds at the first step; what the cache already has of it is not computed again.
    ContextFullError if the context is full or the prompt does not fit the cache.
    """
    require_room(len(context), context.capacity)
    fill_cache(target, context.tokens[:-1])
    loop = Loop(target, context, drafters, verifier, stop)
    step: Step | None = None
    try:
        while step is None or step.finish is None:
            try:
                step = loop.step(scheduler.pick(step))
            except DraftError as error:
                if drop is None:
                    raise
                drop(error)
                step = loop.step(Pick(None))
            yield step
    finally:
        loop.settle()


def fill_cache(target: Model, wanted: Sequence[int] | TokenArray) -> None:
    """Brings the cache to the rows of ``wanted``, keeping the prefix that it already holds, with room for one more."""
    target.cache.rollback(shared_prefix(target.cache.tokens, wanted))
    kept = target.cache.length
    target.cache.require(len(wanted) - kept + target.padded(1))
    target.prefill(wanted[kept:])


class Loop:
    """The decoding of one level, with the state that it keeps from step to step of an answer."""

    def __init__(
        self,
        target: Model,
        context: Context,
        drafters: Drafters,
        verifier: Verifier,
        stop: StoppingCriterion,
    ) -> None:
        self._target, self._context, self._drafters = target, context, drafters
        self._verifier, self._stop = verifier, stop
        self._generated: list[int] = []
        self._drafter: Drafter | None = None
        self._ahead: DraftsAhead | None = None

    def step(self, pick: Pick) -> Step:
        """Runs one step; after an error, cache and context are as they were before."""
        target, context = self._target, self._context
        held, committed = target.cache.length, len(context)
        assert held < committed, (held, committed)
        try:
            start = perf_counter()
            draft = self._draft(pick)
            if self._ahead is not None:
                self._ahead.draft_ahead(context, draft, pick.limit)
            drafted = perf_counter()
            logits = self._run(draft)
            verified = perf_counter()
            verdict = self._verifier.accept(draft, logits, context)
            fresh, finish = self._commit(draft, verdict, committed - 1)
        except BaseException:
            target.cache.rollback(held)
            context.truncate(committed)
            raise
        path = (draft.source or pick.drafter or TARGET,) * len(verdict.path)
        return Step(
            tokens=fresh,
            sources=(*path, TARGET)[: len(fresh)],
            num_drafted=len(draft),
            num_accepted=len(path),
            draft_seconds=drafted - start,
            target_seconds=verified - drafted,
            seconds=perf_counter() - start,
            finish=finish,
            pick=pick,
            depth=draft.depth,
            main_drafted=draft.main_path,
            main_accepted=_first_choices(verdict),
            chances=_judged_chances(draft, verdict),
            below=draft.below,
            rows_read=draft.rows_read,
            reviewed=draft.reviewed,
            logprobs=verdict.logprobs[: len(fresh)],
        )

    def _draft(self, pick: Pick) -> Draft:
        """A draft within the pick and the room of context and cache; a context's last token is never drafted."""
        drafter = self._next_drafter(pick)
        if drafter is None:
            return Draft()
        target, context = self._target, self._context
        before = len(context) - target.cache.length
        nodes = fitting_rows(target, before + pick.limit.nodes) - before
        limit = pick.limit.within(nodes, context.capacity - len(context) - 1)
        if limit.depth <= 0:
            return Draft()
        draft = allowed_part(drafter.propose(context, limit), context.constraint)
        assert len(draft) <= limit.nodes, (pick, draft)
        assert target.takes_trees or draft.is_chain, (pick, draft)
        return draft

    def _run(self, draft: Draft) -> FloatArray:
        """The target's logits, ``[1 + nodes, vocab]``: row 0 follows the anchor."""
        target, context = self._target, self._context
        tokens, parents = draft.rows(int(context.tokens[-1]))
        missing = context.tokens[target.cache.length : -1].tolist()
        if parents is not None and missing:
            parents = [*range(-1, len(missing) - 1), *(parent + len(missing) for parent in parents)]
        return target.forward([*missing, *tokens], parents, len(missing)).logits

    def _next_drafter(self, pick: Pick) -> Drafter | None:
        """The drafter that was picked. If it changes, the one before is settled, since both may use the same model."""
        drafter = None if pick.drafter is None else self._drafters[pick.drafter]
        if drafter is not self._drafter:
            self.settle()
            self._drafter, self._ahead = drafter, drafter if isinstance(drafter, DraftsAhead) else None
        return drafter

    def settle(self) -> None:
        """Waits for work beside the loop; called between two steps, or at the end."""
        if self._ahead is not None:
            self._ahead.settle()

    def _commit(self, draft: Draft, verdict: Verdict, held: int) -> tuple[tuple[int, ...], str | None]:
        """Commits the tokens of the verdict that the stop rule keeps; returns them and why the answer ends, if it does.

        ``held`` rows were in the cache before the anchor's.
        """
        context, cache = self._context, self._target.cache
        fresh = [*(draft.tokens[node] for node in verdict.path), verdict.token]
        self._generated += fresh
        cut = self._stop.cut(self._generated, len(fresh))
        assert cut.keep == len(fresh) or cut.reason is not None, cut
        context.append(fresh[: cut.keep])
        # The anchor's row stays, and so do the rows of the kept tokens, except the last one, which is the next anchor.
        kept = [-1, *verdict.path][: cut.keep]
        cache.rollback(held, [held + row_of(node) for node in kept])
        full = len(context) >= context.capacity or cache.length + self._target.padded(1) > cache.capacity
        return tuple(fresh[: cut.keep]), cut.reason or ("context" if full else None)


def _first_choices(verdict: Verdict) -> int:
    """How many of the accepted nodes lie on the main path; nodes are numbered along it, see ``Draft``."""
    return sum(node == place for place, node in enumerate(verdict.path))


def _judged_chances(draft: Draft, verdict: Verdict) -> tuple[float, ...]:
    """The drafter's estimates along the accepted path, and for the first rejected child after it."""
    if not draft.chances:
        return ()
    refused = draft.children(verdict.path[-1] if verdict.path else -1)[:1]
    return tuple(draft.chances[node] for node in (*verdict.path, *refused))
