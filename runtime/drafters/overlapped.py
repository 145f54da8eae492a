"""Drafting while the target verifies: the overlap of PEARL (Liu et al., arXiv 2408.11850), for two compute units.

While the target verifies a draft, the wrapped drafter goes on behind it, as if all of it were accepted. If all of it
is, and the first token that was drafted ahead is the one that the target adds itself, the rest is the next draft and
nobody waits for it (post-verify). Otherwise what was drafted ahead is dropped, and the target's next step has an empty
draft: it brings one token, as a plain step does, while the drafter goes on behind the committed text; that token is
held against the first drafted one in the same way (pre-verify). Where the drafter takes much less time than the target
it pays to wait for it instead, as without overlap; ``memory.overlap`` says when.

As exact as the wrapped drafter is without it, for every acceptance rule. Whether a draft is used hangs on the committed
text and the first token drafted ahead, which that text then ends with; the rest was drawn behind that very text, by
numbers that nobody has looked at. Those of one position may be drawn twice, but only where nothing of the first draft
was looked at: what is looked at begins with the next token to be committed, and the next draft lies behind it.
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
    """Chains by ``drafter``, drafted in a thread of their own, which stays on ``cores`` if there are some.

    ``drafter`` and its models belong to that thread from ``draft_ahead`` on until ``propose`` or ``settle`` returns.
    """

    def __init__(self, drafter: Drafter, name: str = "ahead", cores: Sequence[int] = ()) -> None:
        self.name = name
        self._drafter, self._cores = drafter, tuple(cores)
        self._assumed: Context | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._pending: Future[Draft] | None = None
        self._arena = Arena()

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. What was drafted ahead and still fits, or an empty draft; an error of the drafter's thread.

        Waits for that thread if it is not done.
        """
        self._wait()
        job, self._pending = self._pending, None
        ready = None
        if job is not None and self._assumed is not None:
            ready = _rest(job.result(), self._assumed, context, limit)
            if ready is not None:  # ``drafter`` drafts on while these distributions are in use
                self._arena.reset()
                ready = replace(ready, probs={node: self._arena.copy(row) for node, row in ready.probs.items()})
        return Draft(source=self.name) if ready is None else ready

    def draft_ahead(self, context: Context, draft: Draft, limit: DraftLimit) -> None:
        """See ``DraftsAhead``. One token more than ``limit`` allows: the target's own goes before the next draft."""
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
        """See ``DraftsAhead``. Ends the thread; what it has drafted is dropped, and an error in it concerns nobody."""
        self._wait()
        worker, self._worker, self._pending = self._worker, None, None
        if worker is not None:
            worker.shutdown()

    def _wait(self) -> None:
        """Until the thread is idle. Interrupted, it is as if nobody had waited yet."""
        if self._pending is not None:
            wait([self._pending])

    def _assume(self, context: Context, draft: Draft) -> Context:
        """The text if all of ``draft`` is accepted: a copy, because the thread reads it while the text goes on."""
        assert draft.is_chain, draft
        assumed = self._assumed
        if assumed is None or assumed.capacity != context.capacity:
            assumed = self._assumed = Context(context.capacity, context.sampling)
        assumed.sampling, assumed.first = context.sampling, context.first
        assumed.truncate(shared_prefix(assumed.tokens, context.tokens))
        assumed.append([*context.tokens[len(assumed) :].tolist(), *draft.tokens])
        return assumed


def _rest(ahead: Draft, assumed: Context, context: Context, limit: DraftLimit) -> Draft | None:
    """What is left of ``ahead``, which follows ``assumed``, behind ``context``; None if the text went another way."""
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
