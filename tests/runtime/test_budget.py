"""Budgets that change while an engine runs: the next step is smaller, the text the same, and it grows back."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import read_manifest
from memory import Device, OverBudgetError, Plan, Request, dump_plan, make_plan, parse_plan
from memory.footprint import process_of
from memory.meter import Memory
from memory.plan import PlanError, Shape
from memory.process import ProcessBytes
from runtime.engine import Engine
from runtime.memory_watcher import Reading, Watcher
from runtime.speculation.request import Speculation
from tests.devices import AMPLE

GIB = 1 << 30
REQUEST = Request(context=400, drafters=("near",), shape="tree", nodes=7, threads=1)


@pytest.fixture
def engine(random_bundle: Path) -> Iterator[Engine]:
    """With a drafter and trees."""
    with Engine.open(random_bundle, REQUEST, device=AMPLE) as engine:
        yield engine


def text(engine: Engine, speculation: Speculation | None = None) -> str:
    answer = engine.generate("a long one", max_new_tokens=60, ignore_eos=True, speculation=speculation)
    return "".join(chunk.text for chunk in answer)


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_a_lowered_budget_keeps_the_text_and_costs_the_drafter(engine: Engine, shape: Shape) -> None:
    speculation = Speculation("near", 7, shape)
    expected, full = text(engine, speculation=speculation), engine.plan
    answer = engine.generate("a long one", max_new_tokens=60, ignore_eos=True, speculation=speculation)
    pieces, drafted = [], []
    for number, chunk in enumerate(answer):
        pieces.append(chunk.text)
        drafted.append(chunk.step.num_drafted)
        if number == 3:
            engine.set_budget(full.bounds.plain_bytes)
            assert engine.plan.needed_bytes <= full.bounds.plain_bytes
            assert not engine.drafters
        if number == 8:
            engine.set_budget(full.needed_bytes)
            assert engine.plan.levels == full.levels
    assert "".join(pieces) == expected
    assert max(drafted[:4]) > 0
    assert max(drafted[4:9]) == 0
    assert max(drafted[9:]) > 0


def test_every_rung_between_keeps_the_text(engine: Engine) -> None:
    expected, full = text(engine), engine.plan
    low, high = full.bounds.plain_bytes, full.needed_bytes
    budgets = [low + (high - low) * piece // 12 for piece in range(13)]
    pieces = []
    for number, chunk in enumerate(engine.generate("a long one", max_new_tokens=60, ignore_eos=True)):
        pieces.append(chunk.text)
        engine.set_budget(budgets[number * 5 % 13])
        assert engine.plan.needed_bytes <= budgets[number * 5 % 13]
        assert engine.target.max_rows == engine.plan.target.max_rows
    assert "".join(pieces) == expected


def test_a_budget_that_cannot_be_changes_nothing(engine: Engine) -> None:
    before = engine.plan
    with pytest.raises(OverBudgetError, match="too few"):
        engine.set_budget(1_000_000)
    assert engine.plan is before
    assert text(engine)


def test_the_smallest_budget_that_is_named_will_do_with_the_kv_type_as_it_is(tiny_bundle_int4: Path) -> None:
    """The plan's own bounds are for narrower KV types, too, which a running engine cannot take."""
    with Engine.open(tiny_bundle_int4, Request(context=256, threads=1), device=AMPLE) as engine:
        before = engine.plan
        with pytest.raises(OverBudgetError) as error:
            engine.set_budget(1_000_000)
        assert before.bounds.plain_bytes < error.value.smallest_bytes < before.needed_bytes
        engine.set_budget(error.value.smallest_bytes)
        assert engine.plan.target.kv_type == before.target.kv_type
        with pytest.raises(OverBudgetError):
            engine.set_budget(error.value.smallest_bytes - 1)


def test_another_thread_may_lower_the_budget_in_the_middle_of_a_step(engine: Engine) -> None:
    expected, full = text(engine), engine.plan
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            engine.set_budget(full.bounds.plain_bytes)
            engine.set_budget(full.needed_bytes)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert [text(engine) for _ in range(5)] == [expected] * 5
    finally:
        done.set()
        thread.join()


def test_a_plan_from_a_file_is_obeyed(random_bundle: Path) -> None:
    with Engine.open(random_bundle, REQUEST, device=AMPLE) as engine:
        made, expected = engine.plan, text(engine)
    plan = parse_plan(dump_plan(made))
    with Engine.open(random_bundle, plan=plan, device=AMPLE) as engine:
        assert engine.plan == made
        assert text(engine) == expected
        assert (engine.target.max_rows, engine.target.cache.capacity) == (plan.target.max_rows, plan.target.capacity)
        engine.set_budget(plan.bounds.plain_bytes)
        assert not engine.drafters


def test_another_budget_counts_the_same_process(random_bundle: Path) -> None:
    heavy = ProcessBytes(50_000_000, 2_000_000, 70_000_000)
    with Engine.open(random_bundle, REQUEST, device=replace(AMPLE, processes={"portable": heavy})) as engine:
        engine.set_budget(engine.plan.bounds.plain_bytes)
        assert process_of(engine.plan.process) == heavy


def test_a_plan_for_weights_that_sit_otherwise_is_refused(random_bundle: Path) -> None:
    with Engine.open(random_bundle, REQUEST, device=AMPLE) as engine:
        data = dump_plan(engine.plan).replace('"residence": "prepacked"', '"residence": "copied"')
    with pytest.raises(PlanError, match="make the plan again for this device"):
        Engine.open(random_bundle, plan=parse_plan(data), device=AMPLE)


def test_what_is_not_available_now_is_not_loaded(random_bundle: Path) -> None:
    device = Device(8 * GIB, 1_000_000)
    with pytest.raises(OverBudgetError, match="1,000,000 are available now; close other programs"):
        Engine.open(random_bundle, Request(context=100, budget_bytes=4 * GIB), device=device)


class Fake:
    """An engine as the watcher sees it: it obeys."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self.replan(make_plan(read_manifest(bundle), AMPLE, REQUEST).needed_bytes)

    def replan(self, budget_bytes: int) -> None:
        request = replace(REQUEST, budget_bytes=budget_bytes)
        self.plan: Plan = make_plan(read_manifest(self._bundle), AMPLE, request)


class Machine:
    """What the watcher reads."""

    def __init__(self) -> None:
        self.available, self.own = 4 * GIB, 1000
        self.container: int | None = None

    def look(self) -> Reading:
        return Reading(Memory(self.own, 0), Device(8 * GIB, self.available, container_bytes=self.container))


@pytest.fixture
def watched(random_bundle: Path) -> tuple[Fake, Machine, Watcher, list[str]]:
    engine, machine, notes = Fake(random_bundle), Machine(), list[str]()
    return engine, machine, Watcher(engine, machine.look, notes.append), notes


def test_the_watcher_shrinks_when_the_system_is_short_and_grows_back_later(
    watched: tuple[Fake, Machine, Watcher, list[str]],
) -> None:
    engine, machine, watcher, notes = watched
    full = engine.plan
    watcher.check()
    assert (engine.plan, notes) == (full, [])
    machine.available = 0
    watcher.check()
    assert engine.plan.needed_bytes < full.needed_bytes
    assert "the system is short of" in notes[0]
    machine.available = 4 * GIB
    for _ in range(4):
        watcher.check()
        assert engine.plan.needed_bytes < full.needed_bytes
    watcher.check()
    assert engine.plan.levels == full.levels
    assert "there is memory again" in notes[1]


def test_in_a_small_container_less_must_stay_free_than_on_a_machine(
    watched: tuple[Fake, Machine, Watcher, list[str]],
) -> None:
    engine, machine, watcher, notes = watched
    full = engine.plan
    machine.container, machine.available = 200_000_000, 8_000_000
    watcher.check()
    assert (engine.plan, notes) == (full, [])
    machine.available = 3_000_000
    watcher.check()
    assert engine.plan.needed_bytes < full.needed_bytes


def test_the_watcher_tells_once_of_use_beyond_the_plan(watched: tuple[Fake, Machine, Watcher, list[str]]) -> None:
    engine, machine, watcher, notes = watched
    machine.own = engine.plan.anonymous_bytes + engine.plan.margin_bytes + 1
    watcher.check()
    watcher.check()
    assert len(notes) == 1
    assert "what else runs in it is not in the plan" in notes[0]


def test_the_watcher_survives_whatever_goes_wrong_and_tells_once(random_bundle: Path) -> None:
    """In reading memory, in planning anew, and in telling."""
    engine, machine, notes, looks = Fake(random_bundle), Machine(), list[str](), list[int]()
    enough = threading.Event()

    def look() -> Reading:
        looks.append(len(looks))
        if len(looks) == 5:
            machine.available = 0
        if len(looks) == 8:
            enough.set()
        if len(looks) in (1, 2, 4):
            raise OSError("no such process")
        return machine.look()

    def notify(line: str) -> None:
        notes.append(line)
        raise BrokenPipeError("nobody reads notes any more")

    watcher = Watcher(engine, look, notify)
    watcher.start(0.001)
    assert enough.wait(60)
    watcher.close()
    failures = [note for note in notes if "memory could not be watched just now (OSError: no such process)" in note]
    assert len(failures) == 1
    assert any("the system is short of" in note for note in notes), "it still watches"


def test_the_watcher_can_be_closed_by_whom_it_tells(random_bundle: Path) -> None:
    engine, machine, closed = Fake(random_bundle), Machine(), threading.Event()
    machine.own = engine.plan.anonymous_bytes + engine.plan.margin_bytes + 1

    def notify(line: str) -> None:
        watcher.close()
        closed.set()

    watcher = Watcher(engine, machine.look, notify)
    watcher.start(0.001)
    assert closed.wait(60)


def test_the_watcher_does_not_keep_an_engine_alive(random_bundle: Path) -> None:
    engine = Engine.open(random_bundle, REQUEST, device=AMPLE)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
