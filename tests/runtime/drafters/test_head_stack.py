"""A stack of heads drafts from one hidden row, whatever went by; its drafts carry what they were drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.arrays import FloatArray
from runtime.decoding.draft import DrawKind, chain_limit, tree_limit
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.head_stack import HeadStackDrafter, OpenStack
from runtime.drafters.prediction_head import HeadReader, PredictionHeadDrafter
from tests.export.heads.tiny_stack import HEADS, HYDRA, MEDUSA
from tests.runtime.drafters.heads import WIDTH, MadeUpTarget, head_and_module, hidden_row
from tests.runtime.levels import context_of

COLUMNS = np.arange(WIDTH)
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.9, seed=7)
TEXT = [5, 17, 3, 99, 5, 64, 200, 31, 8]


def _made(lower: Any, fields: Any) -> tuple[Any, Any]:
    from transformers import LlamaConfig

    from export.heads.stack_formats import head_stack, stack_config

    config = stack_config(fields)
    assert config is not None
    sizes = {"vocab_size": 264, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    return head_and_module(lower, head_stack(config, LlamaConfig(**sizes)), rows=6)


@pytest.fixture(scope="module")
def medusa(lowered_once: Any) -> tuple[Any, Any]:
    """A stack that one forward computes, and its torch module."""
    return _made(lowered_once, MEDUSA)


@pytest.fixture(scope="module")
def hydra(lowered_once: Any) -> tuple[Any, Any]:
    """A stack of grounded heads, and its torch module."""
    return _made(lowered_once, HYDRA)


def expected_rows(module: Any, text: list[int], tokens: list[int]) -> FloatArray:
    """The logits of the module's heads behind ``text``, if ``tokens`` are drafted."""
    import torch

    features, own, rows = torch.from_numpy(hidden_row(text[:-1]))[None, None], None, []
    for token in [text[-1], *tokens][:HEADS]:
        with torch.no_grad():
            given = features if own is None else features[:, :0]
            empty = torch.zeros(1, 0, module.shape.own_hidden(WIDTH))
            out = module(torch.tensor([[token]]), given, empty if own is None else own)
        own = out.hidden
        rows.append(out.logits[0, 0].numpy())
    return np.array(rows)


def target_of(tokens: list[int]) -> MadeUpTarget:
    target = MadeUpTarget(kept=16)
    target.run(tokens)
    return target


def drafter_of(made: tuple[Any, Any], target: MadeUpTarget, **settings: Any) -> Any:
    made[0].cache.rollback(0)
    if made[1].shape.grounded:
        return PredictionHeadDrafter(HeadReader(made[0], target, COLUMNS), 264, longest=HEADS, **settings)
    return HeadStackDrafter(OpenStack(made[0], target, COLUMNS, HEADS), 264, **settings)


@pytest.mark.parametrize("kind", ["medusa", "hydra"])
@pytest.mark.parametrize("limit", [chain_limit(2), chain_limit(HEADS), chain_limit(5)], ids=str)
def test_drafts_are_those_of_the_module(kind: str, limit: Any, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(kind)
    target = target_of(TEXT[:-1])
    drafter = drafter_of(made, target)
    draft = drafter.propose(context_of(TEXT, GREEDY), limit)
    assert (len(draft.tokens), draft.is_chain) == (min(HEADS, limit.depth), True)
    rows = expected_rows(made[1], TEXT, list(draft.tokens))
    assert list(draft.tokens) == rows.argmax(-1).tolist()[: len(draft.tokens)]
    # steps without it, then another text: nothing has to be caught up with
    target.run([TEXT[-1], 7, 9])
    text = [*TEXT, 7, 9, 12]
    draft = drafter.propose(context_of(text, GREEDY), limit)
    assert (
        list(draft.tokens) == expected_rows(made[1], text, list(draft.tokens)).argmax(-1).tolist()[: len(draft.tokens)]
    )


@pytest.mark.parametrize("kind", ["medusa", "hydra"])
def test_drawn_drafts_carry_what_they_were_drawn_from(kind: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(kind)
    draft = drafter_of(made, target_of(TEXT[:-1]), drawn=True).propose(context_of(TEXT, SAMPLED), chain_limit(HEADS))
    rows = expected_rows(made[1], TEXT, list(draft.tokens)).astype(np.float64) / 0.9
    expected = np.exp(rows - rows.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    assert draft.kind == DrawKind.INDEPENDENT
    for place in range(HEADS):
        np.testing.assert_allclose(draft.probs[place - 1], expected[place], atol=1e-5)


@pytest.mark.parametrize("kind", ["medusa", "hydra"])
def test_trees_have_the_likeliest_paths(kind: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(kind)
    draft = drafter_of(made, target_of(TEXT[:-1])).propose(context_of(TEXT, GREEDY), tree_limit(7))
    paths: list[list[int]] = []
    for parent, token in zip(draft.parents, draft.tokens, strict=True):
        paths.append([*(paths[parent] if parent >= 0 else []), token])

    def chance(path: list[int]) -> float:
        row = expected_rows(made[1], TEXT, path[:-1])[len(path) - 1].astype(np.float64)
        return float(np.exp(row - row.max())[path[-1]] / np.exp(row - row.max()).sum())

    np.testing.assert_allclose(draft.chances, [chance(path) for path in paths], rtol=1e-3)
    assert not draft.is_chain
    scores = [np.prod([chance(path[: end + 1]) for end in range(len(path))]) for path in paths]
    others = [
        [*path[:-1], int(token)]
        for path in paths
        for token in np.argsort(-expected_rows(made[1], TEXT, path[:-1])[-1])[:8]
    ]
    left = [path for path in others if path not in paths]
    best = max(np.prod([chance(path[: end + 1]) for end in range(len(path))]) for path in left)
    assert min(scores) >= best or len(paths) < 7


def test_without_the_hidden_row_nothing_is_drafted(medusa: tuple[Any, Any]) -> None:
    target = target_of(TEXT)
    assert target.hidden is not None
    target.hidden.claim(len(TEXT))  # say a session was restored
    drafter = drafter_of(medusa, target)
    assert not drafter.propose(context_of([*TEXT, 1], GREEDY), chain_limit(3))
    target.run([1])
    assert len(drafter.propose(context_of([*TEXT, 1, 2], GREEDY), chain_limit(3))) == 3
    assert medusa[0].cache.length == 0
