"""Laws of the plan: never over budget, more memory never gives a worse one, and every refusal says what would do."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from itertools import pairwise
from time import process_time
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import KvEffect, Manifest, PocketspecError
from memory import Device, OverBudgetError, Plan, Request, make_plan
from memory.footprint import kv_bytes_per_token
from memory.ladder import STEPS
from memory.planner import make_planner, require_available
from memory.speed import draft_depth, expected_tokens
from tests.devices import AMPLE
from tests.memory.manifests import PAIR, QWEN, STACK, TARGET

EVERYTHING = ("middle", "small", "smaller")
REQUESTS = {
    "pair": (PAIR, Request(context=2048)),
    "pair, any context": (PAIR, Request()),
    "three levels": (STACK, Request(context=4096, turns=20, drafters=EVERYTHING)),
    "three levels, up to": (STACK, Request(context=32_768, up_to=True, drafters=EVERYTHING)),
    "a tree": (PAIR, Request(context=2048, shape="tree", nodes=15)),
    "a tree, context may go": (PAIR, Request(context=2048, shape="tree", may_give_up=frozenset({"context"}))),
    "plain": (PAIR, Request(context=2048, nodes=0)),
    "kept conversations": (PAIR, Request(context=2048, kept_conversations=5, application_bytes=20_000_000)),
    "a KV type": (PAIR, Request(context=2048, kv_type="int8")),
}
KV_ORDER = ("int4", "int8", "fp16", "fp32")


@cache
def full(name: str) -> Plan:
    manifest, request = REQUESTS[name]
    return make_plan(manifest, AMPLE, request)


def plan_within(name: str, budget: int, device: Device = AMPLE) -> Plan | None:
    manifest, request = REQUESTS[name]
    try:
        return make_plan(manifest, device, replace(request, budget_bytes=budget))
    except OverBudgetError:
        return None


def worth(plan: Plan | None) -> tuple[float, ...]:
    """Context first, then predicted speed."""
    return (0, 0) if plan is None else (plan.context, plan.tokens_per_second)


def check_budgets(name: str, kernels: Literal["native", "portable"], data: st.DataObject) -> None:
    """Of a budget, and of one that is not smaller."""
    device = replace(AMPLE, kernels=kernels)
    top = full(name).needed_bytes
    budget = data.draw(st.integers(top // 4, top + top // 3))
    lean, rich = (
        plan_within(name, budget, device),
        plan_within(name, budget + data.draw(st.integers(0, top // 3)), device),
    )
    assert lean is None or lean.needed_bytes <= budget
    assert worth(rich) >= worth(lean)
    if lean is not None and rich is not None and rich.context == lean.context:
        assert KV_ORDER.index(rich.target.kv_type) >= KV_ORDER.index(lean.target.kv_type)


@pytest.mark.parametrize("kernels", ["native", "portable"])
@pytest.mark.parametrize("name", REQUESTS)
@settings(deadline=None, max_examples=12)  # the machine may be busy
@given(data=st.data())
def test_no_plan_is_over_budget_and_more_memory_never_gives_a_worse_one(
    name: str, kernels: Literal["native", "portable"], data: st.DataObject
) -> None:
    check_budgets(name, kernels, data)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["native", "portable"])
@pytest.mark.parametrize("name", REQUESTS)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_nor_is_any_of_many_others(name: str, kernels: Literal["native", "portable"], data: st.DataObject) -> None:
    check_budgets(name, kernels, data)


@pytest.mark.parametrize("name", REQUESTS)
def test_every_rung_takes_fewer_bytes_and_is_no_faster_than_the_one_before(name: str) -> None:
    manifest, request = REQUESTS[name]
    ladder, plans = make_planner(manifest, AMPLE, request).ladder(AMPLE.total_bytes)
    assert len(plans) > 1 or request.nodes == 0
    for before, after in pairwise(plans):
        assert after.needed_bytes < before.needed_bytes
        assert (after.context, after.tokens_per_second) <= (before.context, before.tokens_per_second)
    order = [STEPS.index(rung.step) for rung in ladder if rung.step is not None]
    assert order == sorted(order)


def test_the_order_is_the_documented_one() -> None:
    assert [step.name for step in STEPS] == [
        "kept conversations",
        "shape of the tree",
        "length of the chain",
        "drafters' KV window",
        "intermediate",
        "smaller drafter",
        "drafter model",
        "KV type of the target",
        "prefill chunk",
        "speculation",
        "context",
    ]


def test_every_step_says_what_it_gave_up_and_the_bytes_add_up() -> None:
    manifest, request = REQUESTS["three levels"]
    whole = full("three levels")
    leanest = make_plan(manifest, AMPLE, replace(request, budget_bytes=whole.bounds.plain_bytes))
    steps = [entry.step for entry in leanest.given_up]
    assert steps == [step.name for step in STEPS if step.name in steps]
    assert {"intermediate", "smaller drafter", "drafter model", "KV type of the target"} <= {*steps}
    assert all(" -> " in entry.change and entry.reason for entry in leanest.given_up)
    assert sum(entry.saved_bytes for entry in leanest.given_up) == whole.total_bytes - leanest.total_bytes
    assert whole.given_up == ()


def test_a_kv_type_that_harms_is_taken_only_if_the_user_allows_that() -> None:
    harmful = {**TARGET.kv_effects, "int4": KvEffect(1.0, 1024, "native", 1.4)}
    manifest = replace(PAIR, levels=(replace(TARGET, kv_effects=harmful), *PAIR.levels[1:]))
    request = Request(context=32_768, may_give_up=frozenset({"disk"}), budget_bytes=900_000_000)
    assert make_plan(manifest, AMPLE, request).target.kv_type == "int8"
    allowed = replace(request, may_give_up=request.may_give_up | {"precision"})
    assert make_plan(manifest, AMPLE, allowed).target.kv_type == "int4"
    assert make_plan(PAIR, AMPLE, request).target.kv_type == "int4"


@pytest.mark.parametrize("name", REQUESTS)
def test_the_bounds_are_the_smallest_budgets(name: str) -> None:
    bounds = full(name).bounds
    wanted = full(name).context
    for bound in filter(None, (bounds.plain_bytes, bounds.speculative_bytes)):
        enough, short = plan_within(name, bound), plan_within(name, bound - 1)
        assert enough is not None
        assert enough.context == wanted
        assert enough.needed_bytes == bound
        assert short is None or worth(short) < worth(enough) or short.context < wanted


@pytest.mark.parametrize("name", ["pair", "three levels", "plain"])
def test_a_budget_below_the_bound_is_refused_with_bytes_largest_part_and_remedy(name: str) -> None:
    bound = full(name).bounds.plain_bytes
    manifest, request = REQUESTS[name]
    with pytest.raises(OverBudgetError) as error:
        make_plan(manifest, AMPLE, replace(request, budget_bytes=bound - 10))
    text = str(error.value)
    assert f"{bound - 10:,} bytes are 10 too few for {manifest.name}" in text
    assert "the largest part is weights of big with 812,369,940 bytes" in text
    assert f"allow at least {bound:,} bytes" in text


def test_weights_are_read_from_disk_only_if_the_user_allows_that() -> None:
    request = Request(context=2048, budget_bytes=400_000_000)
    with pytest.raises(OverBudgetError, match=r"read from disk .* would do"):
        make_plan(PAIR, AMPLE, request)
    plan = make_plan(PAIR, AMPLE, replace(request, may_give_up=frozenset({"disk"})))
    assert plan.needed_bytes == 400_000_000
    assert 0 < plan.disk_bytes < plan.hot_bytes
    assert "steps read them from disk" in plan.warnings[0]
    assert plan.anonymous_bytes + plan.margin_bytes < 400_000_000
    with pytest.raises(OverBudgetError):
        make_plan(PAIR, AMPLE, replace(request, budget_bytes=50_000_000, may_give_up=frozenset({"disk"})))


def test_without_a_budget_the_plan_leaves_the_device_a_margin() -> None:
    device = Device(total_bytes=1_300_000_000, available_bytes=1_300_000_000, cores=2)
    plan = make_plan(PAIR, device, Request(context=4096))
    assert plan.needed_bytes <= device.usable_bytes < device.available_bytes
    assert make_plan(PAIR, AMPLE, Request(context=4096)).needed_bytes > device.usable_bytes


def test_a_budget_beyond_the_machine_is_the_machine_and_said_so() -> None:
    device = Device(total_bytes=1_500_000_000, available_bytes=1_500_000_000, cores=2)
    plan = make_plan(PAIR, device, Request(context=2048, budget_bytes=10**12))
    assert plan.budget_bytes == device.total_bytes
    assert "more than the 1,500,000,000 there are here" in plan.warnings[0]


def test_what_is_not_available_now_is_refused_before_loading() -> None:
    device = Device(total_bytes=8 << 30, available_bytes=500_000_000, cores=2)
    plan = make_plan(PAIR, device, Request(context=2048, budget_bytes=4 << 30))
    assert "are available now" in plan.warnings[0]
    with pytest.raises(OverBudgetError, match="500,000,000 are available now; close other programs"):
        require_available(plan, device)
    require_available(plan, AMPLE)
    require_available(plan, replace(device, own_bytes=plan.total_bytes - device.available_bytes))
    with pytest.raises(OverBudgetError, match="raise the limit of the container, or allow less"):
        require_available(plan, replace(device, container_bytes=1 << 30))


def test_a_refused_default_budget_names_the_margin_its_container_and_what_would_do() -> None:
    least = make_plan(PAIR, AMPLE, Request(context=2048)).bounds.plain_bytes
    container = 2 * least
    tight = Device(container, least + 1000, container_bytes=container)
    with pytest.raises(OverBudgetError) as caught:
        make_plan(PAIR, tight, Request(context=2048))
    text = str(caught.value)
    assert f"{tight.usable_bytes:,} bytes ({least + 1000:,} are available now within the {container:,} of the" in text
    assert f"less a margin of {tight.margin_bytes:,}; --max-memory {least} uses of the margin what is needed" in text
    make_plan(PAIR, tight, Request(context=2048, budget_bytes=least))


def test_a_default_budget_that_even_without_a_margin_would_not_do_is_not_to_be_raised_by_an_option() -> None:
    for container, remedy in ((None, "close other programs"), (10**8, "raise the limit")):
        with pytest.raises(OverBudgetError) as caught:
            make_plan(PAIR, Device(10**8, 10**8, container_bytes=container), Request(context=2048))
        assert remedy in str(caught.value)
        assert "--max-memory" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(context=1), r"a context of 1 tokens is outside 2\.\.32768, what big was made for"),
        (Request(context=32_769), "a context of 32769 tokens is outside"),
        (Request(context=100, turns=51), "51 turns do not fit a context of 100 tokens; ask for 1 to 50"),
        (Request(turns=0), "0 turns do not fit"),
        (Request(nodes=64), "a draft size of 64: allowed are 1 to 63"),
        (Request(kv_type="fp8"), "'fp8' is no KV type of big; it has: fp32, fp16, int8, int4"),
        (Request(drafters=("nobody",)), "'nobody' is no drafter of this bundle; it has: small"),
    ],
)
def test_a_request_that_no_memory_can_satisfy_is_refused(request_: Request, message: str) -> None:
    with pytest.raises(PocketspecError, match=message):
        make_plan(PAIR, AMPLE, request_)


def test_planning_takes_milliseconds() -> None:
    """Of the processor, the best of five: other programs run meanwhile. The limit of the design is 50 ms."""
    times = []
    for _ in range(5):
        start = process_time()
        full("three levels")
        times.append(process_time() - start)
    assert min(times) < 0.05


def test_a_conversation_keeps_its_room_and_a_draft_has_its_own() -> None:
    plan = make_plan(PAIR, AMPLE, Request(context=100, nodes=7))
    assert (plan.target.max_rows, plan.target.capacity) == (8, 108)
    padded = make_plan(PAIR, replace(AMPLE, kernels="portable"), Request(context=100, nodes=7))
    assert (padded.target.max_rows, padded.target.capacity) == (9, 109)
    growing = make_plan(PAIR, AMPLE, Request(context=4096, up_to=True, nodes=7)).target
    assert (growing.first_capacity, growing.growth, growing.capacity) == (1032, 1024, 4104)


def test_up_to_more_than_there_is_is_what_there_is() -> None:
    assert make_plan(PAIR, AMPLE, Request(context=10**6, up_to=True)).context == QWEN.positions


def test_a_chain_drafter_has_one_row_of_logits_and_no_bias() -> None:
    chain = make_plan(PAIR, AMPLE, Request(context=2048, shape="chain", nodes=7)).level("small")
    tree = make_plan(PAIR, AMPLE, Request(context=2048, shape="tree", nodes=7)).level("small")
    assert chain is not None
    assert tree is not None
    assert (chain.logits_rows, tree.logits_rows) == (1, 8)
    assert tree.footprint.part("inputs").anonymous - chain.footprint.part("inputs").anonymous == 8 * tree.capacity * 4


def test_qwen2_sizes_are_the_published_ones() -> None:
    assert kv_bytes_per_token(QWEN, "fp16", "copied") == 28_672
    assert kv_bytes_per_token(QWEN, "int8", "native") == 28 * 2 * 2 * (128 + 4)
    assert kv_bytes_per_token(QWEN, "int4", "copied") == 28 * 2 * 2 * 64


def test_a_bundle_without_measurements_is_planned_all_the_same() -> None:
    older = replace(TARGET, kv_effects={}, native=None, graphs={"fp32": "model.onnx"})
    manifest = Manifest("older", (older, replace(PAIR.levels[1], agreement=None, kv_effects={})), {}, schema=1)
    plan = make_plan(manifest, AMPLE, Request(context=2048))
    assert plan.draft.nodes > 0
    assert plan.target.residence == "prepacked"
    lean = make_plan(manifest, AMPLE, Request(context=2048, budget_bytes=plan.bounds.plain_bytes))
    assert lean.target.kv_type == "fp32"


def test_effects_that_were_measured_with_other_kernels_say_nothing() -> None:
    def rate(kernels: Literal["native", "portable"]) -> float:
        effects = {"int8": KvEffect(0.25, 1024, kernels, 1.0)}
        manifest = replace(PAIR, levels=(replace(TARGET, kv_effects=effects), *PAIR.levels[1:]))
        return make_plan(manifest, AMPLE, Request(context=2048, kv_type="int8", nodes=0)).tokens_per_second

    assert make_plan(PAIR, AMPLE, Request(context=2048)).target.residence == "native"
    assert rate("native") < 0.5 * rate("portable")


@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_expected_tokens_agree_with_drawing_them(agreement: float, nodes: int) -> None:
    """A chain against a simulation; a tree is never worse than a chain of its depth, and never beyond its nodes."""
    numbers = random.Random(0)
    runs = 20_000
    total = 0
    for _ in range(runs):
        accepted = 0
        while accepted < nodes and numbers.random() < agreement:
            accepted += 1
        total += accepted + 1
    chain = expected_tokens(agreement, "chain", nodes)
    assert abs(total / runs - chain) < 0.05
    deepest = expected_tokens(agreement, "chain", draft_depth("tree", nodes))
    assert deepest - 1e-9 <= expected_tokens(agreement, "tree", nodes) <= nodes + 1
