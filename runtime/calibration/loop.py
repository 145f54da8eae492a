"""Measures what a decoding step takes beside its forwards: the loop, the drafter's and the acceptance rule's work.

It runs real steps on a real text and subtracts the seconds of the models' forwards. A suffix lookup is measured as
well.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import NamedTuple

from memory.forward_costs import NODE_SECONDS
from memory.plan import Shape
from runtime.arrays import TokenArray
from runtime.calibration.opened import OpenEngine
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import NOTHING, Draft, DraftLimit, Pick, chain_limit, tree_limit
from runtime.decoding.loop import Loop, fill_cache
from runtime.decoding.protocols import ModelOutput
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.errors import DraftError
from runtime.models.ort_model import OrtModel

_TEXT = "Once upon a time there was a lantern that was afraid of the dark. Every evening, when the"
_MOST_PROMPT = 24
# Nodes of the chains and trees that are timed.
_CHAIN, _TREE = 3, 7
_LEAST_STEPS = 3
_SUFFIX_TOKENS, _SUFFIX_QUESTIONS = 512, 40


class Patience(NamedTuple):
    """Limits for each way to decode: a number of steps, and seconds after which no further step begins."""

    steps: int
    seconds: float


QUICK = Patience(12, 0.2)
FULL = Patience(100, 5.0)


@dataclass(frozen=True)
class LoopTimes:
    """See ``memory.costs.MeasuredCosts``."""

    step_seconds: float
    node_seconds: Mapping[Shape, float]
    suffix_seconds: float


def measure_loop(opened: OpenEngine, tree_seconds: Mapping[str, float], patience: Patience) -> LoopTimes:
    """Decodes some steps plainly, and with chains and trees if the plan has room for them.

    ``tree_seconds`` (by level) are what a tree costs more than a chain, per row. If there is no draft to time, the work
    of the reference machine for a node is given. The models' caches are overwritten.
    """
    most = min(_MOST_PROMPT, max(opened.plan.context // 2, 1))
    text = (opened.tokenizer.encode(_TEXT) if opened.tokenizer.reads_text else [1, 2, 3, 4] * most)[:most]
    plain = _median(seconds for seconds, _ in _steps(opened, text, None, NOTHING, patience))
    nodes = dict(NODE_SECONDS)
    name = next(iter(opened.drafters), None)
    for limit in _limits(opened):
        model = None if name is None else _Clocked(opened.drafters[name])
        try:
            taken = _steps(opened, text, model, limit, patience)
        except DraftError:
            continue  # the first answer that needs it will say so
        per_node = [(seconds - plain) / count for seconds, count in taken if count]
        if per_node:
            nodes[limit.shape] = max(statistics.median(per_node), 0.0)
    levels = [opened.manifest.target.name, *([] if name is None else [name])]
    nodes["tree"] += sum(tree_seconds[level] for level in levels)
    return LoopTimes(max(plain, 0.0), nodes, _suffix_seconds(text))


def _limits(opened: OpenEngine) -> Iterator[DraftLimit]:
    """The limits of the drafts that are timed, within the plan."""
    planned = opened.plan.draft
    if planned.nodes:
        yield chain_limit(min(_CHAIN, planned.nodes))
        if planned.shape == "tree" and opened.target.takes_trees:
            yield tree_limit(min(_TREE, planned.nodes))


def _steps(
    opened: OpenEngine, text: Sequence[int], model: _Clocked | None, limit: DraftLimit, patience: Patience
) -> list[tuple[float, int]]:
    """Steps after ``text``: the seconds of each beside its forwards, and the nodes of its draft. The first warms up."""
    clocks = [_Clocked(opened.target), *([] if model is None else [model])]
    for clock in clocks:
        clock.cache.rollback(0)
    vocab_size = opened.target.vocab_size
    drafter = _Guesses(vocab_size) if model is None else DraftModelDrafter(model, vocab_size, tokens=model.logit_tokens)
    room = min(opened.plan.context, len(text) + (patience.steps + 1) * (limit.nodes + 1))
    context = Context(room, SamplingParams())
    context.append(text)
    fill_cache(clocks[0], context.tokens[:-1])
    loop = Loop(clocks[0], context, {drafter.name: drafter}, GreedyVerifier(), StopRule())
    pick = Pick(drafter.name, limit) if limit.nodes else Pick(None)
    taken: list[tuple[float, int]] = []
    start = perf_counter()
    while len(taken) <= patience.steps:
        before = sum(clock.seconds for clock in clocks)
        step = loop.step(pick)
        taken.append((step.seconds - sum(clock.seconds for clock in clocks) + before, step.num_drafted))
        enough = perf_counter() - start > patience.seconds and len(taken) > _LEAST_STEPS
        if step.finish is not None or enough:
            break
    return taken[1:] or taken


def _suffix_seconds(text: Sequence[int]) -> float:
    """Seconds of one suffix lookup, in a text that repeats itself."""
    context, drafter = Context(_SUFFIX_TOKENS, SamplingParams()), SuffixDrafter()
    said = [text[place % len(text)] for place in range(_SUFFIX_TOKENS)]
    context.append(said[:-_SUFFIX_QUESTIONS])
    times = []
    for token in said[-_SUFFIX_QUESTIONS:]:
        start = perf_counter()
        drafter.propose(context, chain_limit(_TREE))
        times.append(perf_counter() - start)
        context.append([token])
    return statistics.median(times)


def _median(values: Iterator[float]) -> float:
    return statistics.median(list(values))


class _Clocked:
    """A ``Model`` that adds up the ``seconds`` of its forwards."""

    def __init__(self, model: OrtModel) -> None:
        self._model = model
        self.cache = model.cache
        self.vocab_size, self.max_rows, self.takes_trees = model.vocab_size, model.max_rows, model.takes_trees
        self.logit_tokens = model.logit_tokens
        self.logits_rows = model.logits_rows
        self.seconds = 0.0

    def padded(self, rows: int) -> int:
        """See ``Model``."""
        return self._model.padded(rows)

    def forward(
        self, tokens: Sequence[int] | TokenArray, parents: Sequence[int] | None = None, logits_from: int = 0
    ) -> ModelOutput:
        """See ``Model``."""
        start = perf_counter()
        output = self._model.forward(tokens, parents, logits_from)
        self.seconds += perf_counter() - start
        return output

    def prefill(self, tokens: Sequence[int] | TokenArray) -> None:
        """See ``Model``."""
        start = perf_counter()
        self._model.prefill(tokens)
        self.seconds += perf_counter() - start


class _Guesses:
    """A drafter whose drafts cost nothing: what remains of a step is the acceptance rule's work."""

    name = "guesses"

    def __init__(self, vocab_size: int) -> None:
        self._random, self._vocab_size = Random(0), vocab_size

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. In a tree every node has two children."""
        nodes, tree = range(limit.nodes), limit.shape == "tree"
        parents = tuple(node // 2 - 1 if tree else node - 1 for node in nodes)
        return Draft(tuple(self._random.choices(range(self._vocab_size), k=len(nodes))), parents)
