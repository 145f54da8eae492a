"""From choices to a plan: the sizes that every level is opened with, and the bytes they take."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from export.manifest import Level, Manifest
from memory.activations import OperatorScratch
from memory.choices import INNER_NODES, Choices, PlanInputs
from memory.footprint import (
    CONSTRAINTS,
    Footprint,
    LevelSizes,
    activation_bytes,
    constraints_part,
    level_footprint,
    loading_bytes,
    margin_bytes,
    process_footprint,
    scratch_of,
)
from memory.hidden_rows import kept_rows
from memory.plan import Bounds, DraftPlan, LevelPlan, Plan

# Rows that a growing KV cache begins with, and grows by.
GROWTH_ROWS = 1024
# ONNX Runtime's kernels run even numbers of rows: an odd number gets a dummy row, whose cache row is never committed.
_PADDING_ROWS = 1


def build_plan(inputs: PlanInputs, choices: Choices, budget: int, tokens_per_second: float) -> Plan:
    """The plan of ``choices``. The caller adds ``bounds``, ``given_up`` and ``warnings``."""
    manifest = inputs.manifest
    levels = [inputs.levels[name] for name in (manifest.target.name, *choices.drafters)]
    sized = [(level, _sizes(level, inputs, choices), inputs.residence(level.name)) for level in levels]
    activations = [activation_bytes(*each, inputs.threads(each[0].name)) for each in sized]
    if inputs.request.placements:
        activations = [sum(activations)]  # levels with cores of their own may run at the same time
    scratch = reduce(OperatorScratch.widest, (scratch_of(*each) for each in sized))
    process = process_footprint(
        manifest,
        inputs.device.process(sized[0][2]),
        choices.context,
        activations,
        suffix=choices.nodes > 0,
        store=inputs.request.suffix_store_bytes,
        application=inputs.request.application_bytes,
        constrained=inputs.request.constrained,
        scratch=scratch.of_caller if inputs.device.one_caller else 0,
    )
    plans = tuple(_level_plan(level, inputs, sizes) for level, sizes, _ in sized)
    loading = loading_bytes(
        process, [(level, plan.residence, plan.footprint) for level, plan in zip(levels, plans, strict=True)], manifest
    )
    plan = Plan(
        bundle=manifest.name,
        context=choices.context,
        turns=inputs.request.turns,
        draft=DraftPlan(choices.shape, choices.nodes),
        prefill_chunk=choices.prefill_chunk,
        threads=inputs.request.threads,
        budget_bytes=budget,
        process=process,
        levels=plans,
        loading_bytes=loading,
        margin_bytes=0,
        tokens_per_second=tokens_per_second,
        bounds=Bounds(None, 0),
        fixed_width=inputs.request.fixed_width,
        kept_conversations=choices.kept_conversations,
    )
    return _with_margin(plan)


def plan_with_constraints(plan: Plan, manifest: Manifest) -> Plan:
    """``plan`` with the bytes of constrained answers, which its budget may not have; all else stays as it is."""
    if plan.process.part(CONSTRAINTS).anonymous:
        return plan
    parts = (*(part for part in plan.process.parts if part.name != CONSTRAINTS), constraints_part(manifest))
    return _with_margin(replace(plan, process=Footprint(parts)))


def _with_margin(plan: Plan) -> Plan:
    constrained = plan.process.part(CONSTRAINTS).anonymous > 0
    return replace(plan, margin_bytes=margin_bytes(plan.anonymous_bytes, plan.hot_bytes, constrained))


def _sizes(level: Level, inputs: PlanInputs, choices: Choices) -> LevelSizes:
    is_target, tree = level.role == "target", choices.shape == "tree"
    nodes = choices.nodes
    if (
        not is_target
        and not level.self_draft
        and any(inputs.levels[name].role == "intermediate" for name in choices.drafters)
    ):
        # An intermediate judges drafts of the drafter below it: trees, if both levels can.
        nodes, tree = max(nodes, INNER_NODES), level.tree
    chain = level.chain_within(nodes)
    # The tokens of a whole accepted draft and the target's own, which is all that a drafter usually lacks.
    rows = nodes + 1
    if level.parallel is not None:
        rows, tree = rows + chain - 1, False  # and the masks
    rows += 0 if inputs.residence(level.name) == "native" else _PADDING_ROWS
    copies = choices.kept_conversations + 1 if is_target and choices.kept_conversations else 0
    shares_cache = is_target or level.self_draft is not None
    held = choices.context if shares_cache else min(choices.window, level.shape.positions)
    is_read = is_target and any(inputs.levels[name].reads for name in choices.drafters)
    taps = level.reads if not is_target else level.taps if is_read else ()
    return LevelSizes(
        kv_type=choices.kv_type if shares_cache else choices.drafter_kv_type,
        capacity=held + rows,
        rows=rows,
        logits_rows=_logits_rows(level, tree, rows, chain),
        prefill_chunk=choices.prefill_chunk,
        tree=tree,
        # One copy more than are kept, for the moment in which two conversations change places.
        kept_rows=copies * choices.context,
        kept_copies=copies,
        hidden_rows=kept_rows(choices.prefill_chunk) if is_read else 0,
        hidden_width=len(taps) * inputs.manifest.target.shape.hidden_size,
    )


def _logits_rows(level: Level, tree: bool, rows: int, chain: int) -> int:
    """An intermediate needs the logits of every row it judges. A drafter of chains needs those of its last row alone,
    or of a row for every token if it drafts in parallel.
    """
    if level.role != "drafter" or tree:
        return rows
    return chain if level.drafts_in_parallel else 1


def _level_plan(level: Level, inputs: PlanInputs, sizes: LevelSizes) -> LevelPlan:
    residence = inputs.residence(level.name)
    growth = GROWTH_ROWS if inputs.request.up_to and sizes.capacity - sizes.rows > GROWTH_ROWS else 0
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
        footprint=level_footprint(level, sizes, residence, inputs.threads(level.name), inputs.device.one_caller),
        placement=inputs.placement(level.name),
        hidden_rows=sizes.hidden_rows,
    )
