"""A step runs again exactly when its inputs or settings are others, and leaves nothing half-made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from android_demo.check.steps import StepError, build, files_below, is_current, run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.kt").write_text("a")
    return folder


def _make(folder: Path) -> None:
    (folder / "made").write_text("made")


def test_nothing_is_made_twice(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "output"
    assert build(output, [source], ["-O2"], _make)
    assert not build(output, [source], ["-O2"], _make)
    assert is_current(output, [source], ["-O2"])


def test_changed_inputs_and_settings_are_noticed(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "output"
    build(output, [source], ["-O2"], _make)
    assert build(output, [source], ["-O3"], _make)
    (source / "inner" / "a.kt").write_text("b")
    assert build(output, [source], ["-O3"], _make)
    (source / "b.kt").write_text("")
    assert build(output, [source], ["-O3"], _make)
    (source / "b.kt").unlink()
    assert build(output, [source], ["-O3"], _make)
    (output / "made").unlink()
    output.rmdir()
    assert build(output, [source], ["-O3"], _make)


def test_a_step_that_fails_is_tried_again_and_keeps_no_half(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "output"
    build(output, [source], [], _make)
    (source / "c.kt").write_text("wrong")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise StepError("kotlinc ended with code 1")

    for _ in range(2):
        with pytest.raises(StepError):
            build(output, [source], [], fail)
        assert not is_current(output, [source], [])
    assert build(output, [source], [], _make)
    assert [file.name for file in files_below(output)] == ["made"]


def test_a_command_that_fails_shows_what_it_printed() -> None:
    program = "import sys; print('said'); print('why', file=sys.stderr); sys.exit(3)"
    with pytest.raises(StepError, match=r"code 3(.|\n)*said(.|\n)*why|code 3(.|\n)*why(.|\n)*said"):
        run([sys.executable, "-c", program])
    assert run([sys.executable, "-c", "print('ü')"]).strip() == "ü"
