"""Drafting beside the target on ONNX Runtime: the same text, each level with a thread or a core of its own."""

from __future__ import annotations

import json
import lzma
import os
from itertools import islice
from pathlib import Path

import pytest

from export.bundle import export_bundle
from export.manifest import Manifest, read_manifest
from export.request import ExportRequest
from memory import Placement, Request, make_plan
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import chain_limit
from runtime.decoding.loop import decode
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from runtime.engine import Engine
from runtime.models.exact_widths import any_width, find_safe_widths
from runtime.models.ort_model import OrtModel
from runtime.scheduler.fixed import FixedScheduler
from tests.devices import AMPLE
from tests.runtime.decoding.test_loop import Ends

CAPACITY = 180
PROMPT = [3, 14, 15, 92, 65, 35, 89]
SAMPLINGS = {"greedy": SamplingParams(), "sampled": SamplingParams(temperature=0.7, top_k=20, top_p=0.9, seed=11)}


def _own_cores(manifest: Manifest) -> dict[str, Placement]:
    """One core for the target and the others' own for all that is below it, as far as there are cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return {level.name: Placement(threads=1) for level in manifest.levels}
    return {level.name: Placement(cores=(cores[level.role != "target"],)) for level in manifest.levels}


class Levels:
    """The models of a bundle, each with one thread on a core of its own."""

    def __init__(self, bundle: Path) -> None:
        manifest = read_manifest(bundle)
        request = Request(context=CAPACITY, shape="chain", nodes=7, placements=_own_cores(manifest))
        plan = make_plan(manifest, AMPLE, request)
        models = {}
        for planned in plan.levels:
            level = manifest.level(planned.name)
            models[level.role, level.name] = OrtModel.open(
                bundle, level, planned, 1, plan.prefill_chunk, any_width(planned.max_rows)
            )
        (self.target,) = (model for (role, _), model in models.items() if role == "target")
        self.below = {name: model for (role, name), model in models.items() if role != "target"}
        self.target.widths = find_safe_widths(self.target)
        self.core = plan.levels[-1].placement.cores

    def answers(self, way: str, sampling: SamplingParams) -> tuple[list[int], int, int]:
        """Three turns decoded in that way: the tokens, the steps it took, and how many drafts were ready."""
        context, steps, ready = Context(CAPACITY, sampling), 0, 0
        drafter = self._drafter(way)
        scheduler = FixedScheduler(drafter.name, chain_limit(4)) if drafter else FixedScheduler()
        for turn in (PROMPT, [5, 6, 5, 6, 5], [1]):
            context.append(turn)
            drafters = {drafter.name: drafter} if drafter else {}
            for step in decode(self.target, context, drafters, scheduler, MatchVerifier(), Ends(40)):
                steps, ready = steps + 1, ready + (step.num_drafted > 0)
        return context.tokens.tolist(), steps, ready

    def _drafter(self, way: str) -> OverlappedDrafter | None:
        if way == "plain":
            return None
        small = [DraftModelDrafter(model, self.target.vocab_size, name) for name, model in self.below.items()]
        if way == "hierarchy":
            return OverlappedDrafter(
                HierarchyDrafter(small[1], self.below[small[0].name], self.target.vocab_size, "two"), cores=self.core
            )
        return OverlappedDrafter(small[("near", "far").index(way)], cores=self.core)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_the_text_is_that_of_plain_decoding(random_bundle: Path, sampling: SamplingParams) -> None:
    levels = Levels(random_bundle)
    expected, plain_steps, _ = levels.answers("plain", sampling)
    for way in ("near", "far", "hierarchy"):
        for _ in range(2):
            tokens, steps, ready = levels.answers(way, sampling)
            assert tokens == expected, way
        if way != "far":
            assert steps < plain_steps
            assert ready > 10


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_so_it_is_in_int4(tiny_bundle_int4: Path, sampling: SamplingParams) -> None:
    levels = Levels(tiny_bundle_int4)
    if not levels.target.widths.exact:
        pytest.skip("no two widths agree on this device")
    assert levels.answers("near", sampling)[0] == levels.answers("plain", sampling)[0]


@pytest.mark.slow
def test_so_it_is_for_the_demo_on_real_prompts(shared_data: Path, tmp_path: Path) -> None:
    bundle = export_bundle(ExportRequest("demo", tmp_path / "demo"))
    with lzma.open(shared_data / "text" / "instruct-valid.jsonl.xz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["prompt"] for line in islice(file, 40)]
    places = {role: Placement(threads=1) for role in ("target", "drafter")}
    with Engine.open(bundle, Request(context=384, shape="chain", nodes=7, placements=places)) as engine:
        if not engine.target.widths.exact:
            pytest.skip("no two widths agree on this device")
        name, model = next(iter(engine.drafters.items()))
        drafter, ready = OverlappedDrafter(DraftModelDrafter(model, engine.target.vocab_size, name)), 0
        prompts = [tokens for tokens in map(engine.encode, texts) if len(tokens) < 200]
        for prompt in prompts[:6]:
            for sampling in SAMPLINGS.values():
                answers = []
                for scheduler in (FixedScheduler(), FixedScheduler(drafter.name, chain_limit(4))):
                    context = Context(engine.capacity, sampling)
                    context.append(prompt)
                    drafters = {drafter.name: drafter}
                    for step in decode(engine.target, context, drafters, scheduler, MatchVerifier(), Ends(100)):
                        ready += step.num_drafted > 0
                    answers.append(context.tokens.tolist())
                assert answers[0] == answers[1]
        assert len(prompts) >= 6
        assert ready > 100
