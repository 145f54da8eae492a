"""Drafting while the target verifies: the overlap of PEARL (Liu et al., arXiv 2408.11850), for two compute units.

While the target verifies a draft, the wrapped drafter drafts ahead: it continues as if the whole draft were accepted.
If that comes true, and the target's own next token equals the first token drafted ahead, the remaining tokens are the
next draft and nobody waits for them (PEARL's post-verify). Otherwise they are dropped, and the next step has an empty
draft: the target adds one token, as in plain decoding, while the drafter continues the committed text. The target's
token is compared with the first one drafted ahead in the same way (PEARL's pre-verify). If the drafter is much faster
than the target, waiting for it pays instead; ``memory.overlap`` says when.

Overlap is exact for every acceptance rule for which the wrapped drafter is exact. Whether tokens drafted ahead are used
depends only on the committed text and on the first of them, which the committed text then ends with. The remaining ones
were drawn after that same text, with random numbers that no decision has used. The random numbers of a position may
serve two drafts, but only if no token of the first one was compared at that position: comparisons end with the next
committed token, and the next draft begins after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np

from runtime.arrays import Arena
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import Draft, DraftLimit, make_chain
from runtime.decoding.protocols import Drafter
from runtime.models.placement import keep_on_cores


class OverlappedDrafter:
    """Has ``drafter`` draft chains in a thread, which is bound to ``cores`` if any are given.

    That thread owns ``drafter`` and its models from ``draft_ahead`` until the next ``propose`` or ``settle`` returns.
    """

    def __init__(self, drafter: Drafter, name: str = "ahead", cores: Sequence[int] = ()) -> None:
        self.name = name
        self._drafter, self._cores = drafter, tuple(cores)
        self._assumed: Context | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._pending: Future[Draft] | None = None
        self._arena = Arena()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. The tokens drafted ahead if they still continue ``context``, otherwise an empty draft.

        Waits for the thread, and raises its error if there was one.
        """
        self._wait()
        job, self._pending = self._pending, None
        ready = None
        if job is not None and self._assumed is not None:
            ready = _rest(job.result(), self._assumed, context, limit)
            if ready is not None:  # a copy: ``drafter`` reuses its buffers while these distributions are in use
                self._arena.reset()
                ready = replace(ready, probs={node: self._arena.copy(row) for node, row in ready.probs.items()})
        return Draft(source=self.name) if ready is None else ready

    def draft_ahead(self, context: Context, draft: Draft, limit: DraftLimit) -> None:
        """See ``DraftsAhead``. Drafts one token more than ``limit``, because the first stands for the target's own."""
        self._wait()
        self._pending = None
        length = 1 + min(limit.nodes, limit.depth, context.capacity - len(context) - len(draft) - 2)
        if length < 2:
            return
        assumed = self._assume(context, draft)
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "ahead", keep_on_cores, (self._cores,))
        wanted = replace(limit, nodes=length, depth=length, shape="chain")
        self._pending = self._worker.submit(self._drafter.propose, assumed, wanted)

    def settle(self) -> None:
        """See ``DraftsAhead``. Drops the tokens drafted ahead, and an error of the thread with them."""
        self._wait()
        worker, self._worker, self._pending = self._worker, None, None
        if worker is not None:
            worker.shutdown()

    def _wait(self) -> None:
        """Waits until the thread is idle. If Ctrl-C interrupts it, nothing has changed and it can be called again."""
        if self._pending is not None:
            wait([self._pending])

    def _assume(self, context: Context, draft: Draft) -> Context:
        """The text if all of ``draft`` is accepted; a copy, because the thread reads it while ``context`` changes."""
        assert draft.is_chain, draft
        assumed = self._assumed
        if assumed is None or assumed.capacity != context.capacity:
            assumed = self._assumed = Context(context.capacity, context.sampling)
        assumed.sampling, assumed.first, assumed.constraint = context.sampling, context.first, None
        assumed.truncate(shared_prefix(assumed.tokens, context.tokens))
        assumed.append(context.tokens[len(assumed) :].tolist())
        assumed.constraint = None if context.constraint is None else context.constraint.fork()
        assumed.append(draft.tokens)
        return assumed


def _rest(ahead: Draft, assumed: Context, context: Context, limit: DraftLimit) -> Draft | None:
    """The tokens of ``ahead``, which follows ``assumed``, that continue ``context``; None if ``context`` disagrees."""
    tokens, known = context.tokens, len(context) - len(assumed)
    if not 0 < known < len(ahead) or context.first != assumed.first:
        return None
    if tuple(tokens[len(assumed) :].tolist()) != ahead.tokens[:known]:
        return None
    if not np.array_equal(tokens[: len(assumed)], assumed.tokens):
        return None
    assert ahead.is_chain, ahead
    end = min(known + limit.depth, len(ahead))
    return make_chain(
        ahead.tokens[known:end],
        kind=ahead.kind,
        probs={parent - known: row for parent, row in ahead.probs.items() if known <= parent + 1 < end},
        source=ahead.source,
        chances=ahead.chances[known:end],
        below=ahead.below,
        rows_read=ahead.rows_read,
    )
