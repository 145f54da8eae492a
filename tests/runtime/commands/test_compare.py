"""What ``compare`` says in the end is what was seen, also where speculation did not pay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory import Request, make_plan
from memory.meter import Memory
from runtime.commands.compare import _memory_line, _speed_line
from runtime.commands.options import show_progress
from runtime.decoding.stats import GenerationStats
from tests.devices import AMPLE
from tests.memory.manifests import PAIR


def test_compare_says_it_when_speculation_was_slower_or_took_more_than_planned() -> None:
    plan = make_plan(PAIR, AMPLE, Request(context=64))
    before = GenerationStats(tokens=10, steps=10, step_seconds=1.0)
    rates = {2.0: "faster: 2.00 x", 1.02: "as fast: 1.02 x", 0.8: "slower: 0.80 x"}
    for gain, words in rates.items():
        line = _speed_line(before, replace(before, step_seconds=1 / gain))
        assert line.startswith(words)
        assert ("drafts did not pay" in line) == (gain < 0.95)
    more = Memory(plan.anonymous_bytes + plan.margin_bytes + 1, 0)
    assert _memory_line(plan, replace(before, memory=more)).startswith("BEYOND the plan: ")
    assert _memory_line(plan, replace(before, memory=Memory(1, 0))).startswith("within the plan: ")
    assert "does not tell" in _memory_line(plan, before)


def test_only_packing_that_takes_a_while_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for total in (5_000_000, 800_000_000):
        with show_progress("packing", total) as advance:
            advance(total)
    assert capsys.readouterr().err == "note: packing (800,000,000 bytes)\n"
