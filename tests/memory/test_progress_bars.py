"""Progress bars: shown on terminals alone, one for each stage."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from memory.progress_bars import ProgressBars


def shown(terminal: bool) -> str:
    """What two stages leave on a console."""
    text = io.StringIO()
    with ProgressBars("items", Console(file=text, force_terminal=terminal, width=100)) as bars:
        bars.advance(1)  # before any stage
        bars.begin("reading", 4)
        bars.reach(3)
        bars.begin("writing", None)
        bars.advance(2, "writing the last")
        bars.stop()
    return text.getvalue()


def test_every_stage_has_a_bar_that_is_complete_at_its_end() -> None:
    lines = shown(terminal=True)
    assert "reading" in lines
    assert "3/3" in lines
    assert "writing the last" in lines
    assert "2/2" in lines


def test_elsewhere_nothing_is_written() -> None:
    assert shown(terminal=False) == ""


@pytest.mark.parametrize(("unit", "count"), [("bytes", "3.0/4.0 MB"), ("items", "3000000/4000000")])
def test_bytes_are_shown_as_megabytes_and_items_are_counted(unit: str, count: str) -> None:
    text = io.StringIO()
    with ProgressBars(unit, Console(file=text, force_terminal=True, width=100)) as bars:  # type: ignore[arg-type]
        bars.begin("packing", 4_000_000)
        bars.advance(3_000_000)
    assert count in text.getvalue()
