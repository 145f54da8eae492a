"""One calibration: forwards, the loop around them, and the memory bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from export.manifest import Level
from memory.costs import MeasuredCosts
from memory.experts import expert_bytes, read_share
from memory.footprint import hot_weight_bytes
from runtime.calibration import loop, rows
from runtime.calibration.opened import OpenEngine, open_models
from runtime.hardware import MOST_BYTES, measure_bandwidth
from runtime.kernels.weights.packed import Progress, no_progress
from runtime.models.exact_widths import SafeWidths
from runtime.models.ort_model import OrtModel
from runtime.process.allocator import give_back

# Fewer bytes stay in caches, so their speed says nothing about memory.
_LEAST_BYTES = 40 << 20


def calibrate(opened: OpenEngine, quick: bool, progress: Progress = no_progress) -> MeasuredCosts:
    """Measures every level that is open in ``opened``. An answer that is running ends.

    ``quick``: a few numbers of rows and two contexts, in a second or two. Otherwise up to 64 rows and 2,048 tokens of
    context, as far as there is room, which takes a minute. Afterwards caches are empty, and everything else is as
    before. ``progress`` shows the forwards that are timed.
    """
    with opened.alone(), ExitStack() as stack:
        subjects = _subjects(opened)
        models = [subject.model for subject in subjects.values()]
        for model in models:
            stack.enter_context(model.same_workers())
        widths = [(model.widths, model.fixed_width) for model in models]
        try:
            timed = rows.measure_rows(subjects, rows.QUICK if quick else rows.FULL, progress)
            _restore(models, widths)
            around = loop.measure_loop(opened, timed.tree_seconds, loop.QUICK if quick else loop.FULL)
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
            bandwidth=_bandwidth(opened, timed.levels[opened.manifest.target.name].table[0][0], quick),
            threads=opened.plan.threads,
            kernels=opened.target.kernels.name,
            quick=quick,
        )


def _restore(models: Sequence[OrtModel], widths: Sequence[tuple[SafeWidths, bool]]) -> None:
    for model, own in zip(models, widths, strict=True):
        model.widths, model.fixed_width = own


def _subjects(opened: OpenEngine) -> dict[str, rows.Subject]:
    found = {}
    for name, model in open_models(opened).items():
        planned = opened.plan.level(name)
        assert planned is not None
        level = opened.manifest.level(name)
        experts, heads = level.shape.experts is not None, level.heads
        stacked = heads.count if heads is not None and heads.together else 0
        trees = planned.tree and model.takes_trees
        found[name] = rows.Subject(model, planned.logits_rows, trees, experts, stacked)
    return found


def _bandwidth(opened: OpenEngine, row_seconds: float, quick: bool) -> float:
    """Bytes a second: measured if the plan leaves room for it, else those that one row of the target reaches."""
    plan, level = opened.plan, opened.manifest.target
    reached = read_bytes(opened, level) / row_seconds
    room = min(MOST_BYTES // 2 if quick else MOST_BYTES, plan.budget_bytes - plan.needed_bytes)
    if room < _LEAST_BYTES:
        return reached
    return max(measure_bandwidth(plan.threads, room, 2 if quick else 5), reached)


def read_bytes(opened: OpenEngine, level: Level) -> int:
    """Bytes of weights that a step of one row of ``level`` reads, as it is open in ``opened``."""
    planned = opened.plan.level(level.name)
    assert planned is not None
    hot, experts = hot_weight_bytes(level, planned.residence), level.shape.experts
    if experts is None:
        return hot
    return hot - int(expert_bytes(level, planned.residence) * (1 - read_share(experts, 1)))
