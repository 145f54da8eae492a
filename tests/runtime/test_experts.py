"""Models with experts: a row's bits depend on the row alone, and drafts change no text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import transformers

from export.bundle import export_bundle
from export.request import ExportRequest
from memory import Request
from memory.footprint import EXPERTS
from runtime.commands.bundle_summary import level_lines
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, make_chain
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters import registry
from runtime.engine import Engine
from runtime.models.exact_widths import any_width
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import Lower
from tests.export.filled import make_model
from tests.export.graph.test_families import FAMILIES, PARENTS, SMALL, TEXT, TREE
from tests.export.graph.test_hybrid_families import FAMILIES as HYBRIDS
from tests.made_once import made_once

STATEFUL = ("lfm2_moe", "granitemoehybrid sparse")
SAMPLINGS = [SamplingParams(), SamplingParams(temperature=0.9, seed=7)]


class HalfKnown:
    """Drafts a known answer, of which every fourth token is wrong. In a tree every token has a sibling."""

    name = "half_known"

    def __init__(self) -> None:
        self.answer: list[int] = []

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        start = len(context.tokens) - len(TEXT)
        following = self.answer[start : start + min(limit.nodes, limit.depth)]
        guesses = [(token + (place % 4 == 3)) % 300 for place, token in enumerate(following, start)]
        if limit.shape == "chain":
            return make_chain(guesses)
        guesses = guesses[: limit.nodes // 2]
        tokens = [token for guess in guesses for token in (guess, (guess + 299) % 300)]
        return Draft(tokens, [2 * (place // 2) - 2 if place > 1 else -1 for place in range(len(tokens))])


DRAFTER = HalfKnown()  # engines keep the drafters that they have made


KINDS = {**FAMILIES, **{name: HYBRIDS[name] for name in STATEFUL}}


@pytest.fixture(
    scope="module",
    params=["gpt_oss", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3_moe", *STATEFUL))],
)
def family(request: pytest.FixtureRequest) -> str:
    """Whose models have experts; those with states as well take chains alone."""
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(family: str, tmp_path_factory: pytest.TempPathFactory, lowered_once: Lower) -> Path:
    """A random model in int4, some of its layers with experts."""

    def make(folder: Path) -> None:
        kind, fields = KINDS[family]
        layers = {"num_hidden_layers": 4, "max_position_embeddings": 128}
        config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **layers, **fields})
        folder.mkdir()
        make_model(config).save_pretrained(folder / "far")
        export_bundle(ExportRequest(str(folder / "far"), folder / "bundle", drafters=()))

    return made_once(tmp_path_factory, f"experts-{family}".replace(" ", "-"), make) / "bundle"


@pytest.fixture(scope="module", params=["native", "portable"])
def engine(request: pytest.FixtureRequest, family: str, bundle: Path) -> Iterator[Engine]:
    """The bundle, open with either kernels."""
    asked = Request(threads=2, shape="chain" if family in STATEFUL else "tree", nodes=8)
    with Engine.open(bundle, asked, kernels=request.param) as engine:
        yield engine


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seed"])
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_drafts_that_are_accepted_in_part_change_nothing(
    engine: Engine, sampling: SamplingParams, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shape == "tree" and not engine.target.takes_trees:
        pytest.skip("rows of a tree do not follow one another, and some layers have states")
    monkeypatch.setattr(registry, "_registered", dict(registry.registered()))
    registry.register(DRAFTER.name, lambda spec, resources: DRAFTER, longest=5)

    def tokens(speculation: Speculation) -> tuple[list[int], int]:
        rule = StopRule(max_new_tokens=40)
        steps = list(engine.steps(TEXT, stop=rule, sampling=sampling, speculation=speculation))
        return [token for step in steps for token in step.tokens], len(steps)

    DRAFTER.answer, plain_steps = tokens(PLAIN)
    speculative, steps = tokens(Speculation(DRAFTER.name, 5 if shape == "chain" else 8, shape))  # type: ignore[arg-type]
    assert speculative == DRAFTER.answer
    assert steps < plain_steps / 2


def test_native_rows_are_bit_equal_at_every_width_and_in_a_tree(family: str, bundle: Path) -> None:
    if family in STATEFUL:
        pytest.skip("rows are taken back one by one, which states do not allow")
    logits = []
    for threads in (1, 2, 3):
        with Engine.open(bundle, Request(threads=threads, shape="tree", nodes=19), kernels="native") as engine:
            model = engine.target
            if model.kernels.name != "native":
                pytest.skip("the native kernels are not built")
            model.widths = any_width(model.max_rows)
            alone = np.concatenate([model.forward([token]).logits.copy() for token in TEXT])
            for width in (2, 3, 5, 8, 17):
                model.cache.rollback(1)
                np.testing.assert_array_equal(model.forward(TEXT[1 : 1 + width]).logits, alone[1 : 1 + width])
            model.cache.rollback(13)
            tree = model.forward(TREE, PARENTS).logits.copy()
            model.cache.rollback(13)
            np.testing.assert_array_equal(model.forward([TREE[0], TREE[1], TREE[3]]).logits, tree[[0, 1, 3]])
            logits.append(alone)
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])


def test_the_plan_counts_experts(engine: Engine) -> None:
    part = engine.plan.target.footprint.part(EXPERTS)
    experts = engine.manifest.target.shape.experts
    assert experts is not None
    assert part.anonymous + part.hot > 3 * experts.layers * experts.count * experts.mlp_size * 64 // 2


def test_a_summary_tells_of_experts_and_how_their_router_is_stored(engine: Engine) -> None:
    lines = list(level_lines(engine.manifest.target))
    experts = engine.manifest.target.shape.experts
    assert experts is not None
    wanted = f"  {experts.count} experts of width 40 in {experts.layers} layers, of which a row uses {experts.used}"
    assert f"{wanted}; router fp32" in lines
