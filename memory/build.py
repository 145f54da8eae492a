"""From choices to a plan: what every level is opened with, and every byte of it."""

from __future__ import annotations

from dataclasses import replace

from export.manifest import Level
from memory.choices import INNER_NODES, Choices, Scene
from memory.footprint import (
    LevelSizes,
    activation_bytes,
    level_footprint,
    loading_bytes,
    margin_bytes,
    process_footprint,
)
from memory.plan import Bounds, DraftPlan, LevelPlan, Plan

# A cache that grows begins with so many rows and grows by as many.
GROWTH_ROWS = 1024
# With ONNX Runtime's kernels an odd number of rows gets a dummy row, whose cache row is never committed.
_PADDING_ROWS = 1


def build_plan(scene: Scene, choices: Choices, budget: int, tokens_per_second: float) -> Plan:
    """The plan of ``choices``, without bounds and without a word on what was given up for it."""
    manifest = scene.manifest
    levels = [scene.levels[name] for name in (manifest.target.name, *choices.drafters)]
    sized = [(level, _sizes(level, scene, choices), scene.residence(level.name)) for level in levels]
    activations = [activation_bytes(*each, scene.threads(each[0].name)) for each in sized]
    if scene.request.placements:
        activations = [sum(activations)]  # levels with places of their own may run at once
    process = process_footprint(
        manifest, scene.device.process(sized[0][2]), choices.context, activations, suffix=choices.nodes > 0
    )
    plans = tuple(_level_plan(level, scene, sizes) for level, sizes, _ in sized)
    loading = loading_bytes(
        process, [(level, plan.residence, plan.footprint) for level, plan in zip(levels, plans, strict=True)], manifest
    )
    plan = Plan(
        bundle=manifest.name,
        context=choices.context,
        turns=scene.request.turns,
        draft=DraftPlan(choices.shape, choices.nodes),
        prefill_chunk=choices.prefill_chunk,
        threads=scene.request.threads,
        budget_bytes=budget,
        process=process,
        levels=plans,
        loading_bytes=loading,
        margin_bytes=0,
        tokens_per_second=tokens_per_second,
        bounds=Bounds(None, 0),
        fixed_width=scene.request.fixed_width,
    )
    return replace(plan, margin_bytes=margin_bytes(plan.anonymous_bytes, plan.hot_bytes))


def _sizes(level: Level, scene: Scene, choices: Choices) -> LevelSizes:
    is_target, tree = level.role == "target", choices.shape == "tree"
    nodes = choices.nodes
    if not is_target and any(scene.levels[name].role == "intermediate" for name in choices.drafters):
        # What an intermediate judges is drafted below it, in trees if both can.
        nodes, tree = max(nodes, INNER_NODES), level.tree
    rows = nodes + 1 + (0 if scene.residence(level.name) == "native" else _PADDING_ROWS)
    held = choices.context if is_target else min(choices.window, level.shape.positions)
    return LevelSizes(
        kv_type=choices.kv_type if is_target else choices.drafter_kv_type,
        capacity=held + rows,
        rows=rows,
        # A drafter's chain needs the logits of the last row alone; an intermediate judges the chains of another.
        logits_rows=1 if level.role == "drafter" and not tree else rows,
        prefill_chunk=choices.prefill_chunk,
        tree=tree,
    )


def _level_plan(level: Level, scene: Scene, sizes: LevelSizes) -> LevelPlan:
    residence = scene.residence(level.name)
    growth = GROWTH_ROWS if scene.request.up_to and sizes.capacity - sizes.rows > GROWTH_ROWS else 0
    return LevelPlan(
        name=level.name,
        role=level.role,
        residence=residence,
        kv_type=sizes.kv_type,
        capacity=sizes.capacity,
        first_capacity=growth + sizes.rows if growth else sizes.capacity,
        growth=growth,
        max_rows=sizes.rows,
        tree=sizes.tree,
        logits_rows=sizes.logits_rows,
        footprint=level_footprint(level, sizes, residence, scene.threads(level.name)),
        placement=scene.placement(level.name),
    )
