"""Drafting ahead in an engine: the same text while budgets change, and nothing goes on when an answer has ended."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.manifest import PocketspecError
from memory import Placement, Request
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.overlapped import OverlappedDrafter
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from tests.devices import AMPLE

AHEAD = Speculation("ahead:near", 4, "chain")
SAMPLED = SamplingParams(temperature=0.8, top_k=20, seed=3)


def _places() -> dict[str, Placement]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return {"target": Placement(threads=1), "drafter": Placement(threads=1)}
    return {"target": Placement(cores=(cores[0],)), "drafter": Placement(cores=(cores[1],))}


@pytest.fixture
def engine(random_bundle: Path) -> Iterator[Engine]:
    request = Request(context=400, shape="chain", nodes=7, placements=_places())
    with Engine.open(random_bundle, request, device=AMPLE) as engine:
        yield engine


def _text(engine: Engine, speculation: Speculation = AHEAD, **more) -> str:
    answer = engine.generate("a long one", max_new_tokens=60, ignore_eos=True, speculation=speculation, **more)
    return "".join(chunk.text for chunk in answer)


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["ahead:near", "ahead:far", "ahead:far>near", "ahead:suffix", "ahead:suffix+near"])
def test_an_answer_is_that_of_plain_decoding(engine: Engine, name: str, sampling: SamplingParams) -> None:
    expected = _text(engine, PLAIN, sampling=sampling)
    assert _text(engine, Speculation(name, 4, "chain"), sampling=sampling) == expected
    assert not _threads()


def test_it_stands_before_all_others(engine: Engine) -> None:
    with pytest.raises(PocketspecError, match=r"drafter 'suffix\+ahead:near': 'ahead:' stands before all others"):
        engine.generate("abc", speculation=Speculation("suffix+ahead:near"))


@pytest.mark.parametrize("rule", ["block", "recursive"])
def test_drawn_drafts_are_drafted_ahead_as_well(engine: Engine, rule: str) -> None:
    way = Speculation("ahead:near", 4, "chain", acceptance=rule)
    steps = [c.step for c in engine.generate("abc", sampling=SAMPLED, max_new_tokens=40, speculation=way)]
    assert sum(step.num_accepted for step in steps) > 5


def test_budgets_may_change_while_it_drafts(engine: Engine) -> None:
    """From this thread between two steps, with the drafter's thread at work, and from another one at any time."""
    expected, full = _text(engine, PLAIN), engine.plan
    answer = engine.generate("a long one", max_new_tokens=60, ignore_eos=True, speculation=AHEAD)
    pieces = []
    for number, chunk in enumerate(answer):
        pieces.append(chunk.text)
        engine.set_budget(full.bounds.plain_bytes if number % 3 else full.needed_bytes)
        assert bool(engine.drafters) == (number % 3 == 0)
        assert number % 3 == 0 or not _threads()
    assert "".join(pieces) == expected
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            engine.set_budget(full.bounds.plain_bytes)
            engine.set_budget(full.needed_bytes)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert [_text(engine) for _ in range(2)] == [expected] * 2
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("end", ["close the answer", "another answer", "close the engine"])
def test_an_answer_that_is_left_leaves_no_thread(engine: Engine, end: str) -> None:
    answer = engine.generate("a long one", ignore_eos=True, speculation=AHEAD)
    for _ in range(3):
        next(answer)
    assert _threads()
    if end == "close the answer":
        answer.close()
    elif end == "another answer":
        next(engine.generate("another", speculation=PLAIN))
    else:
        engine.close()
    assert not _threads()


def test_a_drafter_of_the_callers_own_is_waited_for_as_well(engine: Engine) -> None:
    expected, full = _text(engine, PLAIN), engine.plan
    own = OverlappedDrafter(DraftModelDrafter(engine.drafters["near"], engine.target.vocab_size), "mine")
    engine.add_drafter(own)
    answer = engine.generate(
        "a long one", max_new_tokens=60, ignore_eos=True, speculation=Speculation("mine", 4, "chain")
    )
    pieces = [next(answer).text for _ in range(3)]
    engine.set_budget(full.needed_bytes + 1)
    assert not _threads()
    assert "".join([*pieces, *(chunk.text for chunk in answer)]) == expected
