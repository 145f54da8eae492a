"""Laws of the plan: never over budget, more memory never gives less, JSON out and in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.manifest import Level, Manifest, PocketspecError, Quantization, Role, Shape, Source, Vocabulary
from memory import OverBudgetError, Plan, Request, make_plan
from memory.footprint import kv_bytes_per_token, logits_bytes
from memory.plan import dump_plan, parse_plan


def _level(name: str, role: Role, shape: Shape) -> Level:
    return Level(
        name=name,
        role=role,
        folder="" if role == "target" else f"drafters/{name}",
        architecture="llama",
        source=Source("made/here"),
        shape=shape,
        vocabulary=Vocabulary(300, "0" * 64, (2,)),
        quantization=Quantization("int4", 128, "search"),
        graphs={"fp32": "model.onnx"},
        weight_bytes=shape.layers * 10_000_000,
    )


QWEN = Shape(28, 1536, 8960, 12, 2, 128, 151_936, 32_768)
MANIFEST = Manifest(
    "pair",
    (_level("big", "target", QWEN), _level("small", "drafter", Shape(2, 64, 128, 4, 2, 16, 151_936, 2048))),
    {},
)
FULL = make_plan(MANIFEST, Request(context=2048))


def _usefulness(plan: Plan) -> tuple[int, int, int]:
    return len(plan.levels), plan.max_draft, plan.prefill_chunk


def test_qwen2_sizes_are_the_published_ones() -> None:
    assert kv_bytes_per_token(QWEN, "fp16") == 28_672
    assert logits_bytes(QWEN, 1) == 607_744


def test_without_a_budget_everything_is_loaded() -> None:
    assert [level.name for level in FULL.levels] == ["big", "small"]
    assert FULL.given_up == ()


@given(st.integers(FULL.total_bytes // 2, FULL.total_bytes + 1), st.integers(0, 10**8))
def test_no_plan_is_over_budget_and_more_memory_never_gives_less(budget: int, more: int) -> None:
    try:
        lean = make_plan(MANIFEST, Request(2048, budget))
    except OverBudgetError:
        return
    rich = make_plan(MANIFEST, Request(2048, budget + more))
    assert lean.total_bytes <= budget
    assert _usefulness(rich) >= _usefulness(lean)
    assert rich.context == lean.context == 2048


def test_refusal_names_the_missing_bytes_the_largest_part_and_the_remedy() -> None:
    with pytest.raises(OverBudgetError) as error:
        make_plan(MANIFEST, Request(2048, 1000))
    smallest = int(str(error.value).split("allow at least ")[1].split(" bytes")[0].replace(",", ""))
    assert "the largest part is the weights" in str(error.value)
    assert f"1,000 bytes are {smallest - 1000:,} too few" in str(error.value)
    assert make_plan(MANIFEST, Request(2048, smallest)).total_bytes == smallest
    with pytest.raises(OverBudgetError):
        make_plan(MANIFEST, Request(2048, smallest - 1))


def test_capacity_holds_the_context_and_a_padded_draft() -> None:
    plan = make_plan(MANIFEST, Request(context=100, max_draft=7))
    target = plan.level("big")
    assert target is not None
    assert target.max_rows == 9
    assert target.capacity == 100 + 9


@pytest.mark.parametrize("context", [0, 1, 32_769])
def test_a_context_the_model_was_not_made_for_is_refused(context: int) -> None:
    with pytest.raises(PocketspecError, match=r"is outside 2\.\.32768, what big was made for"):
        make_plan(MANIFEST, Request(context=context))


def test_only_the_asked_drafters_are_planned() -> None:
    assert [level.name for level in make_plan(MANIFEST, Request(2048, drafters=())).levels] == ["big"]


def test_json_round_trip() -> None:
    plan = make_plan(MANIFEST, Request(2048, FULL.total_bytes - 1))
    assert plan.given_up
    assert parse_plan(dump_plan(plan)) == plan
