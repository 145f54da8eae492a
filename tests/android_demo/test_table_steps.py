"""The answers of table models that Kotlin repeats are still those of the Python engine."""

from __future__ import annotations

from tests.android_demo.table_steps import FILE, written


def test_the_steps_that_kotlin_repeats_are_pythons() -> None:
    again = "python -m tests.android_demo.table_steps"
    assert FILE.read_text(encoding="utf-8") == written(), f"decoding has changed; {again} makes the file again"
