"""What is given up when memory is short, in a fixed order: what is kept for later, then everything on the drafters'
side, then the target.

Every step of the ladder is one function below and one entry of ``STEPS``, in the same order. A step leads from given
choices to leaner ones, one after the other; each of them is a rung. All rungs together lead from the choices that give
up nothing to plain decoding in the narrowest KV type. Each rung takes fewer bytes than the one before and is no faster.
So the first rung that fits is the best that fits, and more memory never gives a worse plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from memory.choices import CHAIN_SIZES, MIN_CONTEXT, PREFILL_CHUNKS, TREE_SIZES, Choices, PlanInputs

# The smallest window of a drafter's KV cache, in tokens.
MIN_WINDOW = 256
# A KV type that multiplies perplexity by more than this is taken only if the user allows it. int4 was measured at 1.002
# to 1.012 with heads of 32, and at 1.38 with heads of 8, which have too few values to share a scale.
MAX_PERPLEXITY = 1.03
# Shorter contexts are tried in steps of this fraction of the wanted one.
_CONTEXT_STEPS = 64


@dataclass(frozen=True)
class LadderStep:
    """One kind of saving: its ``name``, the ``reason`` why it stands at its place, and what it does.

    ``reduce`` gives leaner choices, one after the other, each leaner than the one before; none where there is nothing
    to save. ``show`` says in a few words what the choices have of that which the step changes.
    """

    name: str
    reason: str
    reduce: Callable[[Choices, PlanInputs], Iterator[Choices]]
    show: Callable[[Choices], str]


@dataclass(frozen=True)
class Rung:
    """One rung: the step that led to it (None: the top) and the choices it stands for."""

    step: LadderStep | None
    choices: Choices


def rungs(start: Choices, inputs: PlanInputs, weigh: Callable[[Choices], int]) -> Iterator[Rung]:
    """The ladder from ``start`` down. ``weigh`` gives the bytes of choices; those that save none are left out."""
    yield Rung(None, start)
    current, least = start, weigh(start)
    for step in STEPS:
        for choices in step.reduce(current, inputs):
            if (needed := weigh(choices)) < least:
                yield Rung(step, choices)
                current, least = choices, needed


def _fewer_kept_conversations(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Half of the conversations that keep their rows, again and again, down to none."""
    while choices.kept_conversations:
        choices = replace(choices, kept_conversations=choices.kept_conversations // 2)
        yield choices


def _smaller_tree(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Trees of fewer nodes, then the longest chain of no more nodes: a chain needs no bias for every key and row."""
    if choices.shape != "tree":
        return
    for nodes in TREE_SIZES:
        if nodes < choices.nodes:
            choices = replace(choices, nodes=nodes)
            yield choices
    longest = max(nodes for nodes in CHAIN_SIZES if nodes <= choices.nodes)
    yield replace(choices, shape="chain", nodes=longest)


def _shorter_chain(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Chains of fewer tokens, each of which takes a row of logits and a row of the KV cache."""
    if choices.shape == "chain":
        for nodes in CHAIN_SIZES:
            if nodes < choices.nodes:
                yield replace(choices, nodes=nodes)


def _smaller_drafter_cache(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """float16 caches of the drafters where all have graphs for it, then half the window again and again."""
    if not choices.drafters:
        return
    if choices.drafter_kv_type == "fp32" and all("fp16" in inputs.kv_types(name) for name in choices.drafters):
        choices = replace(choices, drafter_kv_type="fp16")
        yield choices
    while choices.window // 2 >= MIN_WINDOW:
        choices = replace(choices, window=choices.window // 2)
        yield choices


def _no_intermediate(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """The drafters alone, without intermediates."""
    kept = tuple(name for name in choices.drafters if inputs.levels[name].role != "intermediate")
    if kept != choices.drafters:
        yield replace(choices, drafters=kept)


def _smaller_drafter(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Fewer drafters, the largest one left out first, until the smallest is alone."""
    while len(choices.drafters) > 1:
        largest = max(choices.drafters, key=lambda name: inputs.levels[name].weight_bytes)
        choices = replace(choices, drafters=tuple(name for name in choices.drafters if name != largest))
        yield choices


def _no_drafter_model(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """No drafter model: the suffix drafter alone."""
    if choices.drafters:
        yield replace(choices, drafters=(), window=0)


def _narrower_kv_type(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Narrower KV types that the target has graphs for, unless the user named one.

    This is the first step that can change the target's text.
    """
    if inputs.request.kv_type is not None:
        return
    target = inputs.manifest.target
    types = inputs.kv_types(target.name)
    for kv_type in types[types.index(choices.kv_type) + 1 :]:
        effect = target.kv_effects.get(kv_type)
        harmless = effect is None or effect.perplexity is None or effect.perplexity <= MAX_PERPLEXITY
        if harmless or "precision" in inputs.request.may_give_up:
            yield replace(choices, kv_type=kv_type)


def _smaller_prefill_chunk(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Fewer rows of a prompt at once."""
    for chunk in PREFILL_CHUNKS:
        if chunk < choices.prefill_chunk:
            yield replace(choices, prefill_chunk=chunk)


def _no_speculation(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Plain decoding: one row at a time."""
    if choices.nodes:
        yield replace(choices, nodes=0, shape="chain", drafters=(), window=0)


def _shorter_context(choices: Choices, inputs: PlanInputs) -> Iterator[Choices]:
    """Shorter conversations, if the user allows it."""
    if not inputs.request.may_shrink:
        return
    wanted, least = choices.context, MIN_CONTEXT * inputs.request.turns
    for part in range(_CONTEXT_STEPS - 1, 0, -1):
        shorter = wanted * part // _CONTEXT_STEPS
        if least <= shorter < choices.context:
            choices = replace(choices, context=shorter)
            yield choices


def _names(drafters: tuple[str, ...], none: str) -> str:
    return " and ".join(drafters) or none


STEPS: tuple[LadderStep, ...] = (
    LadderStep(
        "kept conversations",
        "no answer is slower, but a conversation that comes back may have to be read again",
        _fewer_kept_conversations,
        lambda choices: f"{choices.kept_conversations}",
    ),
    LadderStep(
        "shape of the tree",
        "candidates of a tree resemble one another: the last ones bring the fewest tokens for their rows of logits",
        _smaller_tree,
        lambda choices: f"{choices.shape} of {choices.nodes}",
    ),
    LadderStep(
        "length of the chain",
        "the last tokens of a chain are accepted least often",
        _shorter_chain,
        lambda choices: f"chain of {choices.nodes}",
    ),
    LadderStep(
        "drafters' KV window",
        "a drafter guesses from the latest text nearly as well, and its guesses are judged by the target anyway",
        _smaller_drafter_cache,
        lambda choices: f"the last {choices.window:,} tokens in {choices.drafter_kv_type}",
    ),
    LadderStep(
        "intermediate",
        "it is the largest model beside the target; two levels still draft",
        _no_intermediate,
        lambda choices: _names(choices.drafters, "none"),
    ),
    LadderStep(
        "smaller drafter",
        "a smaller drafter agrees less often, and costs less",
        _smaller_drafter,
        lambda choices: _names(choices.drafters, "none"),
    ),
    LadderStep(
        "drafter model",
        "repetition in the text drafts without a model",
        _no_drafter_model,
        lambda choices: _names(choices.drafters, "the suffix drafter alone"),
    ),
    LadderStep(
        "KV type of the target",
        "the conversation keeps its length; python -m runtime inspect shows what it costs in perplexity",
        _narrower_kv_type,
        lambda choices: choices.kv_type,
    ),
    LadderStep(
        "prefill chunk",
        "prompts are read in smaller pieces, with fewer activations at a time",
        _smaller_prefill_chunk,
        lambda choices: f"{choices.prefill_chunk} rows",
    ),
    LadderStep(
        "speculation",
        "plain decoding gives the same text, a token at a time",
        _no_speculation,
        lambda choices: f"drafts of {choices.nodes}" if choices.nodes else "none",
    ),
    LadderStep(
        "context",
        "nothing else is left to give up, and the context was not asked for, or may be smaller",
        _shorter_context,
        lambda choices: f"{choices.context:,} tokens",
    ),
)
