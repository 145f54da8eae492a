"""Draws measurements as PNG files: the cost of rows, speed by category, acceptance by depth, cost and gain of drafts.

matplotlib is optional, and is imported only when a picture is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import PocketspecError
from runtime.bench.intervals import RatioInterval
from runtime.bench.report import Report
from runtime.bench.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (9.0, 5.5)
_DPI = 120
_HEADROOM = 1.5
_MARGIN = 1.15


def draw_plots(report: Report, folder: Path) -> list[Path]:
    """Draws the pictures for which there is data into ``folder``, which is created; returns their paths."""
    pictures: dict[str, tuple[bool, Callable[[Axes, Report], None]]] = {
        "cost.png": (any(1 in costs for costs in report.rows.values()), _draw_costs),
        "categories.png": (
            any(row.ratio and row.contender != report.baseline for row in report.summaries),
            _draw_categories,
        ),
        "acceptance.png": (any(row.acceptance for row in report.summaries), _draw_acceptance),
        "drafters.png": (report.plain_step_seconds is not None and len(report.summaries) > 1, _draw_drafters),
    }
    return [_save(report, draw, folder / name) for name, (is_there, draw) in pictures.items() if is_there]


def check_plots(folder: Path | None) -> None:
    """PocketspecError unless pictures can be drawn and written to ``folder``; None: none are wanted."""
    if folder is None:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PocketspecError("--plots needs matplotlib; pip install 'pocketspec[plot]'") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PocketspecError(f"--plots {folder}: cannot make that folder: {error.strerror}") from None


def _save(report: Report, draw: Callable[[Axes, Report], None], path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    draw(axes, report)
    _label(figure, report)
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png", dpi=_DPI)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PocketspecError(f"cannot write {path}: {error.strerror}") from None
    return path


def _label(figure: Figure, report: Report) -> None:
    """Writes below the picture what must be said of its numbers."""
    labels = dict.fromkeys(row.label for row in report.summaries if row.label)
    threads = report.setup.plan.threads
    notes = [report.setup.manifest.name, *labels, f"threads {threads}" if threads else "", report.ended_early or ""]
    figure.supxlabel("; ".join(filter(None, notes)), fontsize=8, color="0.35")


def _draw_costs(axes: Axes, report: Report) -> None:
    for name, costs in report.rows.items():
        if 1 in costs:
            one = costs[1].median
            axes.plot(
                list(costs),
                [cost.median / one for cost in costs.values()],
                marker="o",
                label=f"{name}: {one * 1e3:.2f} ms",
            )
    axes.set_xlabel("rows of a forward")
    axes.set_ylabel("seconds over those of one row, T(k)/T(1)")
    axes.set_ylim(bottom=0)
    axes.axhline(1, color="0.8", zorder=0)
    axes.legend(title="level and T(1)")
    axes.set_title("What rows cost")


def _draw_categories(axes: Axes, report: Report) -> None:
    """Bars of ratios with their intervals: a group for every category, a bar for every contender."""
    groups = report.categories or {"all prompts": report.summaries}
    names = [row.contender for row in report.summaries if row.contender != report.baseline]
    width = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        offset = (place - (len(names) - 1) / 2) * width
        ratios = [next((row.ratio for row in rows if row.contender == name), None) for rows in groups.values()]
        label: str | None = name
        for left, ratio in enumerate(ratios):
            if ratio is not None:
                axes.bar(left + offset, ratio.value, width, color=f"C{place}", label=label)
                _draw_interval(axes, left + offset, ratio)
                label = None
    axes.axhline(1, color="0.3", lw=1, ls="--")
    axes.set_xticks(range(len(groups)), [_ticked(name, rows) for name, rows in groups.items()])
    if len(groups) > 5:
        axes.tick_params(axis="x", labelrotation=35)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    # Intervals of two prompts are very long; bars should stay visible.
    axes.set_ylim(0, _HEADROOM * max(1.0, *(bar.get_height() for bar in axes.patches)))  # type: ignore[attr-defined]
    axes.set_ylabel(f"tokens/s over those of {report.baseline}")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title("Speed by category of prompts, 95% intervals")


def _draw_interval(axes: Axes, left: float, ratio: RatioInterval) -> None:
    if ratio.low is not None and ratio.high is not None:
        ends = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
        axes.errorbar(left, ratio.value, ends, color="0.2", capsize=2, lw=1)


def _ticked(name: str, rows: list[Summary]) -> str:
    return f"{name} (n={max((row.prompts for row in rows), default=0)})"


def _draw_acceptance(axes: Axes, report: Report) -> None:
    deepest = 1
    for place, row in enumerate(row for row in report.summaries if row.acceptance):
        for style, each in zip(("-", "--", ":", "-.") * len(row.acceptance), row.acceptance, strict=False):
            depths = range(1, len(each.by_depth) + 1)
            deepest = max(deepest, len(each.by_depth))
            label = f"{row.contender} ({each.level})"
            axes.plot(depths, each.by_depth, style, marker="o", ms=4, color=f"C{place}", label=label)
    axes.set_xlabel("depth in the draft")
    axes.set_xticks(range(1, deepest + 1))
    axes.set_ylabel("accepted, given that all before it were")
    axes.set_ylim(0, 1.03)
    axes.legend(fontsize=8, title="contender (level that judges)")
    axes.set_title("Acceptance by depth")


def _draw_drafters(axes: Axes, report: Report) -> None:
    """A point for every contender: what its steps take, in plain steps, and bring; on a line speed is the same."""
    plain = report.plain_step_seconds
    assert plain is not None
    points = [(row, row.step_seconds / plain, row.tokens_per_step) for row in report.summaries if row.step_seconds]
    widest, tallest = max(x for _, x, _ in points), max(y for _, _, y in points)
    for speed in range(1, 1 + math.ceil(max(y / x for _, x, y in points))):
        axes.axline((0, 0), slope=speed, color="0.8", lw=1, zorder=0)
        end = min(_MARGIN * widest, _MARGIN * tallest / speed)
        axes.annotate(f"{speed} x", (end, speed * end), color="0.5", fontsize=8, ha="right", va="top")
    for place, (row, x, y) in enumerate(points):
        axes.plot(x, y, "o", color=f"C{place}", label=row.contender)
    axes.set_xlim(0, _MARGIN * widest)
    axes.set_ylim(0, _MARGIN * tallest)
    axes.set_xlabel("seconds of a step over those of a plain one")
    axes.set_ylabel("tokens of a step")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title("What steps cost and bring; lines of equal speed")
