"""Only equal texts are compared, each by its own tokens and seconds."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from android_demo.check import speed
from android_demo.check.speed import KotlinEngine, Timed
from android_demo.check.steps import StepError

_TIMED = Timed("a b", tokens=30, steps=11, seconds=2.0, outside_seconds=1e-3)


def test_ratios_and_overhead_are_of_the_answers() -> None:
    """Twice as fast in both rounds; the first step, in which the prompt is read, is in no share."""
    shown = speed._shown([[(_TIMED, replace(_TIMED, seconds=4.0))] * 2, [(_TIMED, replace(_TIMED, seconds=4.0))] * 2])
    assert shown.startswith("Kotlin / Python 2.00 (2.00-2.00); 15 and 8 tokens/s, 2.73 and 2.73 tokens a step;")
    assert shown.endswith("100 microseconds a step (most 100)")


def test_other_texts_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kotlin:
        def answer(self, *_: object) -> Timed:
            return _TIMED

    kotlin, engine = Kotlin(), object()
    given: list[Any] = [kotlin, engine, "plain"]
    monkeypatch.setattr(speed, "python_answer", lambda *_: _TIMED)
    assert list(speed._round(*given)) == [(_TIMED, _TIMED)] * 8
    monkeypatch.setattr(speed, "python_answer", lambda *_: replace(_TIMED, text="a c"))
    with pytest.raises(StepError, match=r"Kotlin says 'a b' to .*, Python 'a c'"):
        list(speed._round(*given))


def test_a_machine_that_ends_is_an_error() -> None:
    with pytest.raises(StepError, match="the JVM ended"):
        KotlinEngine(io.StringIO(), io.StringIO())
