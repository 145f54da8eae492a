"""The scheduler in an engine: what it may choose among, and that the text does not hang on what it chooses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import FILE_NAME, dump_manifest, read_manifest
from memory import Request
from runtime.engine import Engine
from runtime.sampling import SamplingParams
from runtime.scheduler.open_ways import KINDS
from runtime.speculation import PLAIN, Speculation
from runtime.stop import StopRule

PROMPT = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def stack(random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random bundle with "near" as intermediate above "far"."""
    folder = tmp_path_factory.mktemp("stack") / "bundle"
    shutil.copytree(random_bundle, folder)
    manifest = read_manifest(folder)
    levels = tuple(replace(level, role="intermediate") if level.name == "near" else level for level in manifest.levels)
    (folder / FILE_NAME).write_text(dump_manifest(replace(manifest, levels=levels)), encoding="utf-8")
    return folder


def _tokens(engine: Engine, speculation: Speculation, sampling: SamplingParams | None = None) -> list[int]:
    rule = StopRule(max_new_tokens=60)
    steps = engine.steps(PROMPT, stop=rule, speculation=speculation, sampling=sampling)
    return [token for step in steps for token in step.tokens]


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(0.9, seed=5)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("only", [None, *KINDS])
def test_whatever_is_chosen_the_text_is_that_of_plain_decoding(
    stack: Path, only: str | None, sampling: SamplingParams
) -> None:
    request = Request(threads=1, shape="tree", nodes=8, drafters=("far", "near"))
    with Engine.open(stack, request) as engine:
        speculation = Speculation(only=only)  # type: ignore[arg-type]
        assert _tokens(engine, speculation, sampling) == _tokens(engine, PLAIN, sampling)


def test_an_intermediate_that_is_not_open_is_no_way_to_decode(stack: Path) -> None:
    with Engine.open(stack, Request(threads=1, nodes=4, drafters=("far",))) as engine:
        _tokens(engine, Speculation())
        assert {prospect.name for prospect in engine.explain()} == {"plain", "suffix-chain", "far-chain"}


def test_every_open_way_is_explained(stack: Path) -> None:
    with Engine.open(stack, Request(threads=1, shape="tree", nodes=8, drafters=("far", "near"))) as engine:
        _tokens(engine, Speculation())
        names = {prospect.name for prospect in engine.explain()}
    trees = {"far-tree", "near-tree"} if engine.target.widths.tree or not engine.target.widths.exact else set()
    assert names == {"plain", "suffix-chain", "far-chain", "near-chain", "far>near-chain"} | trees


def test_acceptance_that_is_simulated_is_as_asked_for(stack: Path) -> None:
    with Engine.open(stack, Request(threads=1, nodes=4, drafters=("far", "near"))) as engine:
        engine.simulate_acceptance([1.0, 1.0, 0.0], [1.0])
        rule = StopRule(max_new_tokens=41)
        steps = list(engine.steps(PROMPT, stop=rule, speculation=Speculation("far>near", 4)))
        assert {step.num_accepted for step in steps[:-1]} == {2}
        assert all(below.num_accepted == below.num_drafted for step in steps for below in step.below)
