"""Models whose later layers read the KV caches of earlier ones (Gemma 3n and 4): drafts change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from export.bundle import export_bundle
from export.request import ExportRequest
from memory import Request
from memory.footprint import kv_bytes_per_token
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, make_chain
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters import registry
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from tests.export.filled import make_model
from tests.export.graph.test_families import FAMILIES, SMALL, TEXT

pytestmark = pytest.mark.slow  # an export


class HalfKnown:
    """Drafts a known answer, of which every fourth token is wrong: drafts are accepted in part."""

    name = "half_known"

    def __init__(self) -> None:
        self.answer: list[int] = []

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        start = len(context.tokens) - len(TEXT)
        following = self.answer[start : start + min(limit.nodes, limit.depth)]
        return make_chain([(token + (place % 4 == 3)) % 300 for place, token in enumerate(following, start)])


DRAFTER = HalfKnown()  # engines keep the drafters that they have made


@pytest.fixture(scope="module", params=["gemma4", "gemma3n"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma in int4."""
    folder = tmp_path_factory.mktemp(request.param)
    kind, fields = FAMILIES[request.param]
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **fields, "max_position_embeddings": 128})
    make_model(config).save_pretrained(folder / "far")
    return export_bundle(ExportRequest(str(folder / "far"), folder / "bundle", drafters=()))


@pytest.fixture(scope="module", params=["native", "portable"])
def engine(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Engine]:
    """The bundle, open with either kernels."""
    with Engine.open(bundle, Request(threads=1, nodes=6), kernels=request.param) as engine:
        yield engine


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0.9, seed=7)], ids=["greedy", "seed"]
)
def test_drafts_that_are_accepted_in_part_change_nothing(
    engine: Engine, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry.registered()))
    registry.register(DRAFTER.name, lambda spec, resources: DRAFTER, longest=5)

    def tokens(speculation: Speculation) -> tuple[list[int], int]:
        rule = StopRule(max_new_tokens=40)
        steps = list(engine.steps(TEXT, stop=rule, sampling=sampling, speculation=speculation))
        return [token for step in steps for token in step.tokens], len(steps)

    DRAFTER.answer, plain_steps = tokens(PLAIN)
    speculative, steps = tokens(Speculation(DRAFTER.name, 5))
    assert speculative == DRAFTER.answer
    assert steps < plain_steps / 2


def test_the_cache_has_the_layers_with_rows_of_their_own_alone(engine: Engine) -> None:
    shape, cache = engine.manifest.target.shape, engine.target.cache
    assert (shape.layers, shape.kv_layers, len(cache.arrays)) == (4, 2, 4)
    planned = engine.plan.target
    assert cache.nbytes == cache.rows * kv_bytes_per_token(shape, planned.kv_type, planned.residence)
