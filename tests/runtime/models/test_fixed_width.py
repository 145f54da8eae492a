"""With a fixed width the target runs one number of rows in every step, whatever is drafted, and says the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.models.exact_widths import SafeWidths
from runtime.models.ort_model import OrtModel, open_session
from runtime.speculation.request import Speculation
from tests.devices import AMPLE
from tests.runtime.tiny_graph import write_tiny_graph

NODES = 7
SAMPLINGS = {"greedy": SamplingParams(), "sampled": SamplingParams(temperature=0.8, top_k=20, seed=5)}
WAYS = {
    "plain": Speculation("none"),
    "chain of 1": Speculation("near", 1, "chain"),
    "chain of 6": Speculation("near", 6, "chain"),
    "tree": Speculation("near", NODES, "tree"),
    "bad tree": Speculation("far", 5, "tree"),
    "suffix": Speculation("suffix"),
    "hierarchy": Speculation("far>near", 4, "chain"),
}


def _watch(model: OrtModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every forward that gives logits, as they are bound for the session; prompts give none."""
    widths: list[int] = []
    run = model._run

    def watched(binding) -> None:
        if len(binding.logits):
            widths.append(len(binding._ids))
        run(binding)

    monkeypatch.setattr(model, "_run", watched)
    return widths


def _open(bundle: Path, *, fixed: bool) -> Engine:
    request = Request(context=160, shape="tree", nodes=NODES, threads=1, fixed_width=fixed)
    return Engine.open(bundle, request, device=AMPLE)


def _tokens(engine: Engine, way: Speculation, sampling: SamplingParams) -> tuple[list[int], set[int]]:
    steps = [c.step for c in engine.generate("abc abc abc a", sampling=sampling, speculation=way, max_new_tokens=60)]
    return [token for step in steps for token in step.tokens], {step.num_drafted for step in steps}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_every_step_runs_the_same_rows_and_says_the_same(
    random_bundle: Path, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _open(random_bundle, fixed=False) as free, _open(random_bundle, fixed=True) as fixed:
        expected, _ = _tokens(free, WAYS["plain"], sampling)
        for engine in (free, fixed):  # what rows cost is measured at first use, at many widths
            _tokens(engine, Speculation(), sampling)
        loose, widths = _watch(free.target, monkeypatch), _watch(fixed.target, monkeypatch)
        drafted: set[int] = set()
        for name, way in WAYS.items():
            tokens, sizes = _tokens(fixed, way, sampling)
            drafted |= sizes
            assert tokens == expected, name
            assert _tokens(free, way, sampling)[0] == expected, name
        assert len(drafted) >= 4
        assert len(set(loose)) > 1
        assert set(widths) == {fixed.target.widths.largest(fixed.plan.target.max_rows)}
        assert min(widths) > NODES


def test_native_kernels_run_exactly_the_planned_rows(tiny_bundle_int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _open(tiny_bundle_int4, fixed=False) as free, _open(tiny_bundle_int4, fixed=True) as fixed:
        if fixed.target.kernels.name != "native":
            pytest.skip("no native kernels here")
        drafter = next(iter(fixed.drafters))
        widths = _watch(fixed.target, monkeypatch)
        for sampling in SAMPLINGS.values():
            expected, _ = _tokens(free, WAYS["plain"], sampling)
            for way in (WAYS["plain"], Speculation(drafter, 3, "chain"), Speculation(drafter, NODES, "tree")):
                assert _tokens(fixed, way, sampling)[0] == expected
        assert set(widths) == {fixed.plan.target.max_rows} == {NODES + 1}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_full_context_has_room_for_the_padding_of_its_last_step(random_bundle: Path, way: Speculation) -> None:
    with _open(random_bundle, fixed=True) as engine:
        chunks = list(engine.generate("abc abc abc a", speculation=way, ignore_eos=True))
        assert chunks[-1].step.finish == "context"
        assert sum(len(chunk.step.tokens) for chunk in chunks) == 160 - chunks[-1].stats.prompt_tokens


def test_a_smaller_budget_keeps_the_text_and_every_step_of_one_width(
    random_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _open(random_bundle, fixed=True) as engine:
        expected, _ = _tokens(engine, WAYS["plain"], SAMPLINGS["greedy"])
        engine.set_budget(engine.plan.bounds.plain_bytes)
        widths = _watch(engine.target, monkeypatch)
        assert _tokens(engine, WAYS["plain"], SAMPLINGS["greedy"])[0] == expected
        assert len(set(widths)) == 1
        assert max(widths) <= engine.plan.target.max_rows < NODES


def test_the_width_is_the_largest_one_that_agrees(tmp_path: Path) -> None:
    session = open_session(write_tiny_graph(tmp_path / "model.onnx"), 1)

    def padded(widths: Sequence[int], max_rows: int) -> list[int]:
        model = OrtModel(session, 64, max_rows, 8, SafeWidths(tuple(widths), exact=True, tree=True))
        model.fixed_width = True
        return [rows for rows in range(1, max_rows + 1) if model.padded(rows) == model.padded(1) <= max_rows]

    assert padded(range(1, 13), 9) == list(range(1, 10))
    assert padded([2, 4, 8, 16], 9) == list(range(1, 9))
    assert padded([4, 8], 8) == list(range(1, 9))
