"""One calibration: forwards, the loop around them, and the memory they read from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from export.manifest import Level
from memory.costs import MeasuredCosts
from memory.footprint import hot_weight_bytes
from runtime.calibration import loop, rows
from runtime.hardware import MOST_BYTES, measure_bandwidth
from runtime.kernels.weights.packed import Progress, no_progress
from runtime.models.exact_widths import SafeWidths
from runtime.models.ort_model import OrtModel
from runtime.process.allocator import give_back

if TYPE_CHECKING:
    from runtime.engine import Engine

# Less than this says nothing of memory, since caches hold it.
_LEAST_BYTES = 40 << 20


def calibrate(engine: Engine, quick: bool, progress: Progress = no_progress) -> MeasuredCosts:
    """Measures every level that is open in ``engine``; an answer of it that is running ends.

    ``quick``: a few numbers of rows and two contexts, in about a second or two; else up to 64 rows and 2,048 tokens, as
    far as there is room, which takes a minute. Caches are left empty, everything else as it was. ``progress`` is shown
    the forwards that are timed.
    """
    with engine.alone(), ExitStack() as stack:
        subjects = _subjects(engine)
        models = [subject.model for subject in subjects.values()]
        for model in models:
            stack.enter_context(model.same_workers())
        widths = [(model.widths, model.fixed_width) for model in models]
        try:
            timed = rows.measure_rows(subjects, rows.QUICK if quick else rows.FULL, progress)
            _restore(models, widths)
            around = loop.measure_loop(engine, timed.tree_seconds, loop.QUICK if quick else loop.FULL)
        finally:
            _restore(models, widths)
            for model in models:
                model.cache.release()
            give_back()
        return MeasuredCosts(
            levels=timed.levels,
            step_seconds=around.step_seconds,
            node_seconds=around.node_seconds,
            suffix_seconds=around.suffix_seconds,
            bandwidth=_bandwidth(engine, timed.levels[engine.manifest.target.name].table[0][0], quick),
            threads=engine.plan.threads,
            kernels=engine.target.kernels.name,
            quick=quick,
        )


def _restore(models: Sequence[OrtModel], widths: Sequence[tuple[SafeWidths, bool]]) -> None:
    for model, own in zip(models, widths, strict=True):
        model.widths, model.fixed_width = own


def open_models(engine: Engine) -> dict[str, OrtModel]:
    """Every model that is open, by its level's name, the target first."""
    return {engine.manifest.target.name: engine.target, **engine.drafters}


def _subjects(engine: Engine) -> dict[str, rows.Subject]:
    found = {}
    for name, model in open_models(engine).items():
        planned = engine.plan.level(name)
        assert planned is not None
        found[name] = rows.Subject(model, planned.logits_rows, planned.tree and model.takes_trees)
    return found


def _bandwidth(engine: Engine, row_seconds: float, quick: bool) -> float:
    """Measured where the plan leaves room for that; elsewhere what one row of the target reaches, which is no more."""
    plan, level = engine.plan, engine.manifest.target
    reached = read_bytes(engine, level) / row_seconds
    room = min(MOST_BYTES // 2 if quick else MOST_BYTES, plan.budget_bytes - plan.needed_bytes)
    if room < _LEAST_BYTES:
        return reached
    return max(measure_bandwidth(plan.threads, room, 2 if quick else 5), reached)


def read_bytes(engine: Engine, level: Level) -> int:
    """Bytes of weights that a step of ``level`` reads, as it is open in ``engine``."""
    planned = engine.plan.level(level.name)
    assert planned is not None
    return hot_weight_bytes(level, planned.residence)
