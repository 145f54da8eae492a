"""Pictures are drawn of what there is, say what must be said of the numbers, and are never half written."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.manifest import PocketspecError
from runtime.bench.contenders import parse_contender
from runtime.bench.intervals import spread
from runtime.bench.plots import check_plots, draw_plots
from runtime.bench.prompts import BenchPrompt
from runtime.bench.report import Report, Setup
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from tests.runtime.bench.records import make_answer, make_step

pytest.importorskip("matplotlib")

PICTURES = ("cost", "categories", "acceptance", "drafters")


@pytest.fixture
def report(engine: Engine) -> Report:
    """Two contenders on three prompts of two categories."""
    setup = Setup(
        command="bench",
        manifest=engine.manifest,
        plan=engine.plan,
        contenders=[parse_contender("plain"), parse_contender("near-chain3")],
        prompts=[BenchPrompt("one", "a"), BenchPrompt("two", "a"), BenchPrompt("three", "b")],
        prompts_from="3 prompts",
        repeats=1,
        max_new_tokens=8,
        sampling=SamplingParams(),
        kernels=["portable"],
        synthetic="0.8",
    )
    steps = [make_step(2, 3), make_step(1, 3), make_step(3, 3)]
    answers = [make_answer("plain", 10.0 + prompt, prompt) for prompt in range(3)]
    answers += [make_answer("near-chain3", 20.0, prompt, steps=steps) for prompt in range(3)]
    rows = {"tiny": {1: spread([1.0]), 4: spread([2.0])}, "near": {1: spread([0.5]), 4: spread([2.0])}}
    return Report(setup, answers, rows=rows)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are saved, by the names of their files."""
    from matplotlib.figure import Figure

    figures: dict[str, Any] = {}
    save = Figure.savefig

    def kept(self: Figure, path: Path, **settings: Any) -> None:
        figures[path.name.removesuffix(".png.part")] = self
        save(self, path, **settings)

    monkeypatch.setattr(Figure, "savefig", kept)
    return figures


def test_pictures_show_the_numbers_of_the_report(report: Report, tmp_path: Path, drawn: dict[str, Any]) -> None:
    assert draw_plots(report, tmp_path) == [tmp_path / f"{name}.png" for name in PICTURES]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    cost, categories, acceptance = (drawn[name].axes[0] for name in ("cost", "categories", "acceptance"))
    lines = {line.get_label(): list(line.get_ydata()) for line in cost.lines}
    assert lines["tiny: 1000.00 ms"] == [1.0, 2.0]
    assert lines["near: 500.00 ms"] == [1.0, 4.0]
    ratios = [rows[1].ratio.value for rows in report.categories.values() if rows[1].ratio]
    assert [bar.get_height() for bar in categories.patches] == ratios
    assert [label.get_text() for label in categories.get_xticklabels()] == ["a (n=2)", "b (n=1)"]
    assert list(acceptance.lines[0].get_ydata()) == [1.0, pytest.approx(2 / 3), 0.5]


def test_drafters_are_drawn_by_what_a_step_costs_and_brings(
    report: Report, tmp_path: Path, drawn: dict[str, Any]
) -> None:
    """Plain steps are at (1, 1), and a contender lies on the line of its speed."""
    slow = [replace(step, seconds=2.0) for step in (make_step(2, 3), make_step(3, 3))]
    answers = [*report.answers[:3], *(make_answer("near-chain3", 20.0, prompt, steps=slow) for prompt in range(3))]
    draw_plots(replace(report, answers=answers), tmp_path)
    axes = drawn["drafters"].axes[0]
    points = [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines if line.get_marker() == "o"
    ]
    assert points == [(1.0, 1.0), (2.0, 3.5)]
    assert [text.get_text() for text in axes.texts] == ["1 x", "2 x"]


def test_every_picture_says_what_the_numbers_are(report: Report, tmp_path: Path, drawn: dict[str, Any]) -> None:
    draw_plots(replace(report, ended_early="interrupted after 6 of 9 answers"), tmp_path)
    for figure in drawn.values():
        said = figure.get_supxlabel()
        for part in ("tiny", "random weights", "synthetic acceptance 0.8", "interrupted after 6 of 9 answers"):
            assert part in said


def test_nothing_is_drawn_of_nothing(report: Report, tmp_path: Path) -> None:
    assert draw_plots(Report(report.setup, []), tmp_path) == []
    alone = Report(report.setup, [make_answer("plain", 10.0)])
    assert draw_plots(alone, tmp_path) == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "cost.png").write_text("before")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(PocketspecError, match=r"cannot write .*cost\.png: No space left"):
        draw_plots(report, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_what_hinders_drawing_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_plots(None)
    check_plots(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(PocketspecError, match=r"--plots .*file/plots: cannot make that folder"):
        check_plots(tmp_path / "file" / "plots")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    check_plots(None)
    with pytest.raises(PocketspecError, match=r"--plots needs matplotlib; pip install 'pocketspec\[plot\]'"):
        check_plots(tmp_path)
