"""The scheduler in an engine: what it may choose among, and that the text does not hang on what it chooses."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.scheduler.available import KINDS
from runtime.speculation.request import PLAIN, Speculation

PROMPT = [1, 2, 3, 4]


def _tokens(engine: Engine, speculation: Speculation, sampling: SamplingParams | None = None) -> list[int]:
    rule = StopRule(max_new_tokens=60)
    steps = engine.steps(PROMPT, stop=rule, speculation=speculation, sampling=sampling)
    return [token for step in steps for token in step.tokens]


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(0.9, seed=5)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("only", [None, *KINDS])
def test_whatever_is_chosen_the_text_is_that_of_plain_decoding(
    stacked_bundle: Path, only: str | None, sampling: SamplingParams
) -> None:
    request = Request(threads=1, shape="tree", nodes=8, drafters=("far", "near"))
    with Engine.open(stacked_bundle, request) as engine:
        speculation = Speculation(only=only)  # type: ignore[arg-type]
        assert _tokens(engine, speculation, sampling) == _tokens(engine, PLAIN, sampling)


def test_an_intermediate_that_is_not_open_is_no_way_to_decode(stacked_bundle: Path) -> None:
    with Engine.open(stacked_bundle, Request(threads=1, nodes=4, drafters=("far",))) as engine:
        _tokens(engine, Speculation())
        assert {prospect.name for prospect in engine.explain()} == {"plain", "suffix-chain", "far-chain"}


def test_every_open_way_is_explained(stacked_bundle: Path) -> None:
    with Engine.open(stacked_bundle, Request(threads=1, shape="tree", nodes=8, drafters=("far", "near"))) as engine:
        _tokens(engine, Speculation())
        names = {prospect.name for prospect in engine.explain()}
    trees = {"far-tree", "near-tree"} if engine.target.widths.tree or not engine.target.widths.exact else set()
    assert names == {"plain", "suffix-chain", "far-chain", "near-chain", "far>near-chain"} | trees


def test_acceptance_that_is_simulated_is_as_asked_for(stacked_bundle: Path) -> None:
    with Engine.open(stacked_bundle, Request(threads=1, nodes=4, drafters=("far", "near"))) as engine:
        engine.simulate_acceptance([1.0, 1.0, 0.0], [1.0])
        rule = StopRule(max_new_tokens=41)
        steps = list(engine.steps(PROMPT, stop=rule, speculation=Speculation("far>near", 4)))
        assert {step.num_accepted for step in steps[:-1]} == {2}
        assert all(below.num_accepted == below.num_drafted for step in steps for below in step.below)
