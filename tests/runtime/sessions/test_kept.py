"""Conversations that take turns on one engine: each finds its rows again, within what the plan has for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory import Request
from memory.footprint import KEPT
from runtime.engine import Engine

TALKS = [f"{name} begins a long talk, which has more than a few rows. " * 2 for name in ("Ann", "Bob", "Cleo")]


def answer(engine: Engine, prompt: str, **settings: Any) -> tuple[str, int]:
    """The text, and how many tokens of the prompt were not read again."""
    chunks = list(engine.generate(prompt, raw=True, max_new_tokens=6, **settings))
    return "".join(chunk.text for chunk in chunks), chunks[-1].stats.cached_tokens


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_the_latest_conversations_are_not_read_again(random_bundle: Path, kept: int) -> None:
    with Engine.open(random_bundle, Request(threads=1, kept_conversations=kept)) as engine:
        alone = {}
        for talk in TALKS:
            with Engine.open(random_bundle, Request(threads=1)) as other:
                alone[talk] = answer(other, talk)[0]
        for turn in range(3):
            for talk in TALKS[: kept + 1]:
                text, cached = answer(engine, talk)
                assert text == alone[talk]
                assert cached == (len(talk) - 1 if turn else 0)
                assert len(engine._kept) <= kept
                assert engine._kept.nbytes <= engine.plan.target.footprint.part(KEPT).anonymous
        # One more than there is room for: whoever waited longest is read again.
        longest = TALKS[0]
        answer(engine, TALKS[-1] + "!")
        assert kept == 2 or answer(engine, longest)[1] == 0


def test_a_smaller_budget_drops_them_first_and_at_once(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, kept_conversations=2)) as engine:
        whole = engine.plan
        for talk in TALKS:
            answer(engine, talk)
        assert len(engine._kept) == 2
        engine.set_budget(whole.needed_bytes - 1)
        assert (engine.plan.kept_conversations, len(engine._kept)) == (1, 1)
        assert engine.plan.draft == whole.draft
        assert [entry.step for entry in engine.plan.given_up] == ["kept conversations"]
        engine.set_budget(whole.budget_bytes)
        assert engine.plan.kept_conversations == 2
