"""The interfaces of the decoding loop: a model with its cache, drafters, a scheduler, an acceptance rule.

Implementations are in other rooms (``models``, ``drafters``, ``scheduler``, ``decoding/acceptance``), which import this
module; it imports none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from runtime.arrays import FloatArray, TokenArray
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, Pick, Step, Verdict
from runtime.decoding.stop import Cut


class Cache(Protocol):
    """The cache of one model: the tokens whose rows it holds, and its capacity in rows.

    Whether it has keys and values of rows, or states that all rows have changed, its users need not know.
    """

    @property
    def capacity(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def tokens(self) -> TokenArray:
        """The tokens whose rows are held, int32 ``[length]``; valid until the next change."""
        ...

    def require(self, rows: int) -> None:
        """Makes sure that ``rows`` more rows may be written; ContextFullError if they do not fit."""
        ...

    def rollback(self, length: int, kept: Sequence[int] = ()) -> None:
        """Forgets all rows past ``length``, except the ``kept`` ones, which are moved to the end of what remains.

        Rows of the last forward are always forgotten exactly. Further back fewer rows may remain than asked: then
        ``length`` says so, and the missing ones must be run again.
        """
        ...


@dataclass(frozen=True)
class ModelOutput:
    """``logits``: float32 ``[rows, vocab]``, a view that is valid until the model's next forward.

    ``hidden``: of a prediction head, its own hidden rows, float32 ``[rows, hidden]``, valid as long.
    """

    logits: FloatArray
    hidden: FloatArray | None = None


@dataclass(frozen=True)
class HiddenInput:
    """What a prediction head reads beside its tokens, a row for each: hidden rows of the target, or its ``own``.

    ``rows`` is float32 ``[rows, width]``.
    """

    rows: FloatArray
    own: bool = False


class Model(Protocol):
    """A model, for drafters and the decoding loop.

    ``max_rows`` limits a forward, padding included, and ``logits_rows`` the rows of it whose logits are asked for.
    """

    vocab_size: int
    max_rows: int
    logits_rows: int
    takes_trees: bool

    @property
    def cache(self) -> Cache:
        """Its KV cache."""
        ...

    def padded(self, rows: int) -> int:
        """Rows that a forward of ``rows`` rows runs, padding included; the cache must have room for them."""
        ...

    def forward(
        self, tokens: Sequence[int] | TokenArray, parents: Sequence[int] | None = None, logits_from: int = 0
    ) -> ModelOutput:
        """Runs ``tokens`` after the cache and appends their rows to it; returns the logits from row ``logits_from`` on.

        ``parents[i] < i`` is the row that row i follows, -1 the cache itself, as in ``Draft.rows``; None: each row
        follows the one before.
        """
        ...

    def prefill(self, tokens: Sequence[int] | TokenArray) -> None:
        """Appends the rows of any number of ``tokens`` to the cache, without logits."""
        ...


class HeadModel(Model, Protocol):
    """A prediction head: a model that reads hidden rows beside its tokens."""

    def forward(
        self,
        tokens: Sequence[int] | TokenArray,
        parents: Sequence[int] | None = None,
        logits_from: int = 0,
        hidden: HiddenInput | None = None,
    ) -> ModelOutput:
        """See ``Model``; ``hidden`` has a row for every token. None: the rows mean nothing."""
        ...

    def prefill(self, tokens: Sequence[int] | TokenArray, hidden: HiddenInput | None = None) -> None:
        """See ``Model``; ``hidden`` has a row for every token."""
        ...


def fitting_rows(model: Model, wanted: int) -> int:
    """How many of the ``wanted`` rows one forward can run now, padding included."""
    room = min(model.max_rows, model.cache.capacity - model.cache.length)
    wanted = min(wanted, room)
    while wanted > 0 and model.padded(wanted) > room:
        wanted -= 1
    return wanted


class Drafter(Protocol):
    """Guesses what follows the committed tokens. It is not told which guesses were accepted.

    A drafter with a state compares it with ``context.tokens`` at every call and keeps the common prefix. So a rejected
    draft, a new turn and another conversation are all the same to it.
    """

    name: str

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """A draft of at most ``limit`` that follows the last committed token; it may be empty.

        DraftError if its model is broken.
        """
        ...


@runtime_checkable
class DraftsAhead(Drafter, Protocol):
    """A drafter that works in a thread of its own while the target runs."""

    def draft_ahead(self, context: Context, draft: Draft, limit: DraftLimit) -> None:
        """Begins the next draft, of at most ``limit``, assuming that all of ``draft`` is accepted; returns at once.

        The loop calls it before every forward of the target; ``context`` may change afterwards.
        """
        ...

    def settle(self) -> None:
        """Waits for the work in progress, and ends the thread.

        It must be called before the drafter's models are used elsewhere, resized or closed. The drafter remains usable.
        """
        ...


class Scheduler(Protocol):
    """A policy that picks how to draft. It sees every step, and nothing else of the conversation."""

    def pick(self, last: Step | None) -> Pick:
        """The pick for the next step; ``last`` is the one before it, None at the start of an answer."""
        ...


class Verifier(Protocol):
    """An acceptance rule. ``exact``: its output has exactly the target's distribution."""

    name: str
    exact: bool

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        """Judges ``draft`` by ``logits``, float32 ``[1 + nodes, vocab]``: row 0 follows the anchor."""
        ...


class StoppingCriterion(Protocol):
    """Where an answer ends."""

    def cut(self, generated: Sequence[int], fresh: int) -> Cut:
        """How many of the last ``fresh`` tokens of ``generated`` stand, and why the answer ends, if it does."""
        ...


class Drafters(Protocol):
    """Drafters by name."""

    def __getitem__(self, name: str) -> Drafter: ...
