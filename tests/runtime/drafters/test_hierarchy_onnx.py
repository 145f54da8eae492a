"""Hierarchies of models on ONNX Runtime: rows that catch up, trees below, and caches as after a fresh prefill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memory.choices import Request
from runtime.decoding.draft import DraftLimit, chain_limit
from runtime.decoding.protocols import Drafter
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.engine import Engine
from runtime.models.ort_model import OrtModel, open_session
from runtime.speculation.request import Speculation
from tests.runtime.drafters.guesses import Random
from tests.runtime.levels import context_of
from tests.runtime.tiny_graph import VOCAB, write_tiny_graph

ROWS, CAPACITY = 12, 200
PROMPT = [3, 14, 15, 92, 65, 35, 89]
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.8, top_k=20, seed=5)
INNER = {"chain": chain_limit(3), "tree": DraftLimit(6, 3, "tree")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in fp32 and int4."""
    folder = tmp_path_factory.mktemp("graphs")
    for bits in (4, 32):
        write_tiny_graph(folder / f"{bits}.onnx", bits=bits)
    return folder


def _open(folder: Path, bits: int) -> OrtModel:
    return OrtModel(open_session(folder / f"{bits}.onnx", 1), CAPACITY, ROWS, 16)


def _check_cache(model: OrtModel, folder: Path) -> None:
    """In fp32, rows are those of the same tokens read at once, up to rounding."""
    fresh, held = _open(folder, 32), model.cache.length
    fresh.prefill(model.cache.tokens)
    for ours, theirs in zip(model.cache.arrays, fresh.cache.arrays, strict=True):
        assert np.allclose(ours[:, :, :held], theirs[:, :, :held], atol=1e-5)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@pytest.mark.parametrize("below", ["int4", "random", "hierarchy"])
def test_the_intermediate_says_what_it_would_say_alone(
    folder: Path, below: str, inner: DraftLimit, params: SamplingParams
) -> None:
    """Through full accepts, where two rows catch up in front of a tree, rejections and edits."""
    lower: Drafter = Random(VOCAB) if below == "random" else DraftModelDrafter(_open(folder, 4), VOCAB)
    if below == "hierarchy":
        lower, inner = HierarchyDrafter(lower, _open(folder, 4), VOCAB, "lower"), chain_limit(5, inner)
    middle, accepted = _open(folder, 32), set()
    drafter, alone = HierarchyDrafter(lower, middle, VOCAB), DraftModelDrafter(_open(folder, 32), VOCAB)
    context = context_of(PROMPT, params, CAPACITY - ROWS)
    for turn in range(12):
        limit = chain_limit(4 + inner.depth, inner)
        draft = drafter.propose(context, limit)
        assert draft.tokens == alone.propose(context, chain_limit(len(draft))).tokens
        _check_cache(middle, folder)
        accepted |= {step.num_accepted for step in draft.below}
        context.append([*draft.tokens[: len(draft) if turn % 3 == 0 else turn % 4], turn])
        if turn == 6:
            context.truncate(len(context) - 5)
    assert below == "random" or max(accepted) > 1


@pytest.mark.parametrize("acceptance", ["block", "recursive", "match"])
@pytest.mark.parametrize("name", ["far>near", "suffix+far>near"])
def test_drawn_hierarchies_in_a_bundle(random_bundle: Path, name: str, acceptance: str) -> None:
    """By rules that use distributions as well: a whole answer, partly drafted, and the same again for its seed."""
    with Engine.open(random_bundle, Request(context=96, drafters=("near", "far"), nodes=8)) as engine:
        prompt, rule = engine.encode("once upon a time"), StopRule(max_new_tokens=40)
        texts = []
        for _ in range(2):
            speculation = Speculation(name, limit=chain_limit(6, chain_limit(2)), acceptance=acceptance)
            steps = list(engine.steps(prompt, stop=rule, sampling=SAMPLED, speculation=speculation))
            texts.append([token for step in steps for token in step.tokens])
            assert len(texts[-1]) == 40
            assert sum(step.num_accepted for step in steps) > 0
        assert texts[0] == texts[1]
