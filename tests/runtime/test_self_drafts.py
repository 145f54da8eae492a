"""A drafter that is half of the target's own codes: text, KV rows, files, pages and plans."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.bundle import export_bundle
from export.manifest import PocketspecError, read_manifest
from export.request import ExportRequest
from memory import Request
from memory.meter import read_mapped_files
from runtime.calibration.measure import calibrate
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.kernels.library import KernelsError, open_library
from runtime.kernels.weights.layout import PAGE
from runtime.kernels.weights.packing_table import read_table
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import TinyModels

NAME = "tiny-target-int4"
PROMPT = "Once upon a time there was a bird."
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.9, seed=7)


@pytest.fixture(scope="module")
def bundle(tiny_models: TinyModels, lowered_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random target in int8 whose high halves are a drafter."""
    try:
        open_library()
    except KernelsError as error:
        pytest.skip(f"such drafters run with native kernels alone: {error}")
    output = tmp_path_factory.mktemp("halves") / "bundle"
    return export_bundle(ExportRequest(str(tiny_models.target), output, "int8", drafters=(), int4_drafter=True))


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    """The bundle, open; it keeps another conversation."""
    with Engine.open(
        bundle, Request(threads=1, shape="tree", nodes=6, kept_conversations=1), kernels="native"
    ) as engine:
        yield engine


def tokens_of(engine: Engine, prompt: str = PROMPT, **settings: Any) -> list[int]:
    chunks = engine.generate(prompt, **{"max_new_tokens": 40, "ignore_eos": True, **settings})
    return [token for chunk in chunks for token in chunk.step.tokens]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    "speculation",
    [Speculation(NAME, 5, "chain"), Speculation(NAME, 6, "tree"), Speculation(f"suffix>{NAME}", 5), Speculation()],
    ids=str,
)
def test_text_is_the_targets(engine: Engine, speculation: Speculation, sampling: SamplingParams) -> None:
    plain = tokens_of(engine, sampling=sampling, speculation=PLAIN)
    assert tokens_of(engine, sampling=sampling, speculation=speculation) == plain


@pytest.mark.parametrize(("acceptance", "shape"), [("match", "tree"), ("block", "chain"), ("recursive", "tree")])
def test_the_targets_rows_are_its_own_under_every_rule(engine: Engine, acceptance: str, shape: Any) -> None:
    """Bit for bit those that plain reading of the same text gives, and most drafts were wrong somewhere."""
    speculation = Speculation(NAME, 6, shape, acceptance=acceptance)
    *_, last = engine.generate(PROMPT, max_new_tokens=40, ignore_eos=True, sampling=SAMPLED, speculation=speculation)
    assert last.stats.accepted > 0
    cache = engine.target.cache
    tokens, rows = cache.tokens.copy(), [array[:, :, : cache.length].copy() for array in cache.arrays]
    cache.rollback(0)
    engine.target.prefill(tokens)
    for ours, fresh in zip(rows, cache.arrays, strict=True):
        np.testing.assert_array_equal(ours, fresh[:, :, : len(tokens)])


def test_it_reads_no_prompt_and_agrees_mostly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.drafters[NAME], "prefill", lambda tokens: pytest.fail("it reads a prompt"))
    chunks = engine.generate(PROMPT, max_new_tokens=40, ignore_eos=True, speculation=Speculation(NAME, 5))
    steps = [chunk.step for chunk in chunks]
    assert sum(len(step.tokens) for step in steps) > 1.5 * len(steps)


def test_no_byte_of_weights_is_written_twice(bundle: Path, tiny_models: TinyModels, tmp_path: Path) -> None:
    alone = export_bundle(ExportRequest(str(tiny_models.target), tmp_path / "alone", "int8", drafters=()))
    with_it, without = read_manifest(bundle), read_manifest(alone)
    added = set(with_it.files) - set(without.files)
    assert added == set(with_it.level(NAME).native.graphs.values())  # type: ignore[union-attr]
    assert sum(with_it.files[name].bytes for name in with_it.files if ".data" in name) == without.target.weight_bytes
    assert with_it.target.native.data_bytes == without.target.native.data_bytes  # type: ignore[union-attr]
    assert max(with_it.files[name].bytes for name in added) < 1.1 * with_it.files["native.onnx"].bytes


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells only on Linux")
def test_matrices_are_mapped_once(bundle: Path, tmp_path: Path) -> None:
    """Norms and rotary tables, each by either session."""
    bundle = shutil.copytree(bundle, tmp_path / "bundle")  # that no other engine maps
    with Engine.open(bundle, Request(threads=1, nodes=4, shape="chain"), kernels="native", warm=True) as engine:
        tokens_of(engine, speculation=Speculation(NAME, 4))
        (file,) = set(engine._models.mapped_files())
        mapped = read_mapped_files()
        assert mapped is not None
        vectors = sum(-(-vector.size // PAGE) * PAGE for vector in read_table(bundle / "native.json")[0].vectors)
        assert 0 < mapped[str(file)] <= -(-file.stat().st_size // PAGE) * PAGE + 2 * vectors
        assert engine.drafters[NAME].arrays["KV cache"] == ()


def test_a_plan_counts_no_weights_and_no_rows_of_it(engine: Engine) -> None:
    target, drafter = engine.plan.levels
    for part in map(drafter.footprint.part, ("weights", "KV cache")):
        assert (part.anonymous, part.hot, part.cold) == (0, 0, 0)
    assert (drafter.capacity, drafter.kv_type) == (target.capacity, target.kv_type)
    assert drafter.footprint.total < target.footprint.total / 2


def test_portable_kernels_leave_it_out_or_refuse_it(bundle: Path) -> None:
    with Engine.open(bundle, Request(threads=1), kernels="portable") as engine:
        assert [level.name for level in engine.plan.levels] == ["tiny-target"]
        portable = tokens_of(engine, speculation=PLAIN)
        assert len(portable) == 40
    message = f"{NAME} is part of tiny-target and runs with native kernels alone; leave it out"
    with pytest.raises(PocketspecError, match=message):
        Engine.open(bundle, Request(drafters=(NAME,)), kernels="portable")


def test_it_cannot_draft_while_the_target_runs(engine: Engine) -> None:
    with pytest.raises(PocketspecError, match=f"{NAME} shares the target's KV cache .*; ask for {NAME}"):
        tokens_of(engine, speculation=Speculation(f"ahead:{NAME}", 3))


def test_conversations_are_kept_and_saved_without_it(engine: Engine, tmp_path: Path) -> None:
    speculation = Speculation(NAME, 4)
    first = tokens_of(engine, speculation=speculation)
    tokens_of(engine, "Another text.", speculation=speculation)
    assert tokens_of(engine, speculation=speculation) == first
    engine.save(tmp_path / "session")
    tokens_of(engine, "A third text.", speculation=speculation)
    engine.restore(tmp_path / "session")
    assert tokens_of(engine, speculation=speculation) == first


def test_a_smaller_plan_and_a_calibration_leave_the_text(bundle: Path) -> None:
    request = Request(threads=1, nodes=6, shape="chain", context=200)
    with Engine.open(bundle, request, kernels="native") as engine:
        plain = tokens_of(engine, speculation=PLAIN)
        calibrate(engine, quick=True)
        assert tokens_of(engine, speculation=Speculation(NAME, 6)) == plain
        engine.replan(engine.plan.needed_bytes - 1)
        size = min(engine.plan.draft.nodes, 3)
        assert tokens_of(engine, speculation=Speculation(NAME, size) if engine.drafters else PLAIN) == plain
