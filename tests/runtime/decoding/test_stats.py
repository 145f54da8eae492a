"""Statistics are sums over steps, and every derived figure follows from them."""

from __future__ import annotations

import json

import pytest

from memory.meter import Memory
from runtime.decoding.draft import Step
from runtime.decoding.stats import GenerationStats

STEPS = [
    Step((5, 6, 7), ("near", "near", "target"), 3, 2, 0.1, 0.2, 0.4),
    Step((8,), ("target",), 1, 0, 0.1, 0.2, 0.35),
    Step((9, 2), ("suffix", "suffix"), 4, 2, 0.0, 0.2, 0.25, "eos"),
]


def folded() -> GenerationStats:
    stats = GenerationStats(prompt_tokens=10, cached_tokens=4)
    for step, seconds in zip(STEPS, (1.0, 1.5, 2.0), strict=True):
        stats = stats.after(step, seconds)
    return stats


def test_counts_and_times_are_sums_over_the_steps() -> None:
    stats = folded()
    assert (stats.prompt_tokens, stats.cached_tokens, stats.tokens, stats.steps) == (10, 4, 6, 3)
    assert (stats.drafted, stats.accepted) == (8, 4)
    assert stats.sources == {"near": 2, "target": 2, "suffix": 2}
    assert (stats.draft_seconds, stats.target_seconds) == pytest.approx((0.2, 0.6))
    assert stats.step_seconds == pytest.approx(1.0)
    assert (stats.first_token_seconds, stats.seconds, stats.finish) == (1.0, 2.0, "eos")


def test_figures_follow_from_the_sums() -> None:
    stats = folded()
    assert stats.tokens_per_step == 2.0
    assert stats.acceptance_rate == 0.5
    assert stats.other_seconds == pytest.approx(0.2)
    assert stats.decode_tokens_per_second == pytest.approx(6.0)
    assert stats.tokens_per_second == pytest.approx(3.0)


def test_no_steps_divide_by_nothing() -> None:
    stats = GenerationStats()
    assert stats.tokens_per_step == stats.acceptance_rate == stats.decode_tokens_per_second == 0.0
    assert "0 tokens" in stats.line()


def test_the_line_says_what_people_ask_for() -> None:
    assert folded().line() == (
        "6 tokens in 2.00 s; 6.0 tokens/s decoding, 3.0 in all; first token after 1.00 s; 2.00 tokens per step;"
        " accepted 4 of 8 (50%)"
    )


def test_json_has_fields_and_figures() -> None:
    data = json.loads(json.dumps(folded().to_json()))
    assert data["sources"] == {"near": 2, "target": 2, "suffix": 2}
    assert data["tokens_per_step"] == 2.0
    assert data["memory"] is None


def test_memory_is_a_part_of_the_line() -> None:
    assert "2 MiB memory, 1 MiB mapped files" in GenerationStats(memory=Memory(2**21, 2**20)).line()
