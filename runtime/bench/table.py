"""A report as tables: Markdown, comma-separated values, and columns for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from memory.cores import read_cores
from memory.machine import measured_on
from runtime.bench.acceptance import LevelAcceptance
from runtime.bench.contenders import levels_of
from runtime.bench.intervals import CONFIDENCE, RatioInterval
from runtime.bench.machine import describe_level, describe_place
from runtime.bench.report import Report, facts
from runtime.bench.summary import Summary

_MIB = 2**20
_NONE = "-"
_NAMED_CHOICES = 3

Grid = tuple[list[str], list[list[str]]]


def main_grid(report: Report) -> Grid:
    """Titles and cells of the table with a row for every contender."""
    bandwidth = report.setup.bandwidth
    named = {row.reference for row in report.summaries}
    reference = named.pop() if len(named) == 1 else "plain of the same kernels"
    columns: dict[str, Callable[[Summary], str]] = {
        "contender": _name,
        "tokens/s": lambda row: _number(row.tokens_per_second, ".1f"),
        f"x {report.baseline}": lambda row: _text(row.ratio),
        "end to end": lambda row: _number(row.end_to_end_tokens_per_second, ".1f"),
        f"x {report.baseline} end to end": lambda row: _text(row.end_to_end_ratio),
        "first token ms": lambda row: _number(row.first_token_seconds * 1e3, ".1f"),
        "tokens/step": lambda row: f"{row.tokens_per_step:.2f}",
        "accepted, by depth": lambda row: "; ".join(map(_acceptance, row.acceptance)) or _NONE,
        "choices": _choices,
        "drafters MB": lambda row: _megabytes(report, row),
        "draft, of a plain step": lambda row: _price(report, row),
        "draft ms": lambda row: _number(row.draft_seconds_per_step, ".2f", 1e3),
        "target ms": lambda row: _number(row.target_seconds_per_step, ".2f", 1e3),
        "outside ONNX Runtime us": lambda row: f"{row.overhead_seconds_per_step * 1e6:.0f}",
        "GB/s": lambda row: _bandwidth(row.read_bytes_per_second, bandwidth),
        "predicted": _prediction,
        "peak MiB": _peak,
        f"answers as {reference}": lambda row: _NONE if row.identical is None else f"{row.identical}/{row.answers}",
    }
    return list(columns), [[cell(row) for cell in columns.values()] for row in report.summaries]


def _megabytes(report: Report, row: Summary) -> str:
    """What the files of all levels take that the contender may draft with."""
    manifest = report.setup.manifest
    contender = next(each for each in report.setup.contenders if each.name == row.contender)
    levels = [] if contender.is_plain else levels_of(contender, manifest)
    size = sum(level.weight_bytes for level in manifest.levels if level.name in levels)
    return f"{size / 1e6:.1f}" if size else _NONE


def _price(report: Report, row: Summary) -> str:
    """The seconds of a step's draft over those of the baseline's whole step, if that is plain decoding."""
    plain = report.plain_step_seconds
    if plain is None or not row.draft_seconds_per_step or row.contender == report.baseline:
        return _NONE
    return f"{row.draft_seconds_per_step / plain:.1%}"


def category_grid(report: Report) -> Grid:
    """Ratios to the baseline: contenders by categories."""
    titles = [f"x {report.baseline}", *report.categories]
    by_category = [{row.contender: row for row in rows} for rows in report.categories.values()]
    cells = [
        [_name(row), *(_text(rows[row.contender].ratio) if row.contender in rows else _NONE for rows in by_category)]
        for row in report.summaries
    ]
    return titles, cells


def hindsight_grid(report: Report) -> Grid:
    """The speed of "auto" over that of the best fixed choice, by category."""
    cells = [f"{each.ratio} of {each.best}" for each in report.hindsight.values()]
    names = {each.contender for each in report.hindsight.values()}
    rows = [[_name(row), *cells] for row in report.summaries if row.contender in names]
    return ["x the best fixed choice", *report.hindsight], rows


def row_grid(report: Report) -> Grid:
    """Milliseconds of forwards, levels by rows."""
    counts = list(dict.fromkeys(count for costs in report.rows.values() for count in costs))
    cells = [
        [name, *(f"{costs[count].median * 1e3:.2f}" if count in costs else "" for count in counts)]
        for name, costs in report.rows.items()
    ]
    return ["ms for rows", *map(str, counts)], cells


def grids(report: Report) -> list[Grid]:
    """All tables that have rows."""
    found = [main_grid(report), hindsight_grid(report), row_grid(report)]
    if report.categories:
        found.insert(1, category_grid(report))
    return [grid for grid in found if grid[1]]


def preamble(report: Report) -> Iterator[str]:
    """The lines before the tables."""
    setup = report.setup
    yield f"`{setup.command}`"
    yield ""
    if report.ended_early:
        yield f"**{report.ended_early}**"
        yield ""
    threads = f"threads {setup.plan.threads or read_cores().usable}"
    yield f"{measured_on()}; {threads};"
    sampling = setup.sampling
    chosen = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}, seed {sampling.seed}"
    yield (
        f"{setup.prompts_from}, {setup.repeats} repeats, at most {setup.max_new_tokens} tokens each, {chosen}; medians"
        f" over prompts, ratios as geometric means with their {CONFIDENCE:.0%} interval."
    )
    load = "" if setup.load is None else f" Load before: {setup.load:.1f}."
    bandwidth = "" if setup.bandwidth is None else f" This machine reads {setup.bandwidth / 1e9:.1f} GB/s."
    yield f"Kernels: {', '.join(setup.kernels)}.{bandwidth}{load}"
    for level in setup.manifest.levels:
        yield f"{level.role} {level.name}: {describe_level(level)}{describe_place(setup.plan, level.name)}."
    yield ""


def afterword(report: Report) -> Iterator[str]:
    """The lines after the tables."""
    for name, start in report.starts.items():
        yield (
            f"First token, {name} ({start.resident:.0%} of the mapped weights in memory):"
            f" {start.first_token_seconds:.2f} s after {start.open_seconds:.2f} s of opening."
        )
    yield (
        f"Memory: {report.setup.plan.total_bytes / _MIB:.0f} MiB planned; peaks are anonymous + mapped files of the"
        " process, in which all levels are open."
    )


def markdown(report: Report) -> str:
    """The whole report."""
    lines = list(preamble(report))
    for titles, cells in grids(report):
        lines += [f"| {' | '.join(titles)} |", "| --- |" + " --- |" * (len(titles) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in cells]
        lines.append("")
    if not report.summaries:
        lines += ["No answer came to its end.", ""]
    return "\n".join([*lines, *afterword(report)])


def terminal(report: Report, width: int) -> str:
    """The whole report for a terminal of ``width`` columns. Wide tables are split, and each part repeats the names."""
    lines = list(preamble(report))
    for titles, cells in grids(report):
        for columns in _parts([titles, *cells], width):
            lines += ["  ".join(parts).rstrip() for parts in zip(*columns, strict=True)]
            lines.append("")
    if not report.summaries:
        lines += ["No answer came to its end.", ""]
    return "\n".join([*lines, *afterword(report)])


def _parts(rows: Sequence[Sequence[str]], width: int) -> Iterator[list[list[str]]]:
    """Padded columns in groups that fit into ``width`` if possible; every group begins with the first column."""
    names, *others = (_padded([row[column] for row in rows]) for column in range(len(rows[0])))
    group = [names]
    for column in others:
        if len(group) > 1 and sum(len(each[0]) + 2 for each in group) + len(column[0]) > width:
            yield group
            group = [names]
        group.append(column)
    yield group


def _padded(cells: Sequence[str]) -> list[str]:
    widest = max(map(len, cells))
    return [cell.ljust(widest) for cell in cells]


def comma_separated(report: Report) -> str:
    """CSV: a line for every contender over all prompts, then one by category, each with all shared facts."""
    rows = [*report.summaries, *(row for rows in report.categories.values() for row in rows)]
    shared = {name: _flat(value) for name, value in facts(report).items()}
    lines = [{**_flat_summary(row), **shared} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else list(shared), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().rstrip("\n")


def _flat_summary(row: Summary) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in vars(row).items():
        if name in ("ratio", "end_to_end_ratio", "prediction"):
            ratio: RatioInterval | None = value
            flat[name] = _flat(ratio and ratio.value)
            flat |= {f"{name}_{end}": _flat(ratio and getattr(ratio, end)) for end in ("low", "high")}
        elif name == "acceptance":
            flat["accepted"] = " ".join(f"{each.level}={each.rate}" for each in row.acceptance)
            flat["accepted_by_depth"] = " ".join(
                f"{each.level}={'/'.join(map(str, each.by_depth))}" for each in row.acceptance
            )
        elif name == "peak":
            flat["peak_anonymous_bytes"] = _flat(row.peak and row.peak.anonymous_bytes)
            flat["peak_file_bytes"] = _flat(row.peak and row.peak.file_bytes)
        else:
            flat[name] = _flat(value)
    return flat


def _flat(value: Any) -> Any:
    """Nested values as one text; None as an empty one."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(map(str, value))
    return "" if value is None else value


def _name(row: Summary) -> str:
    return f"{row.contender} [{row.label}]" if row.label else row.contender


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return _NONE if value is None else f"{value * factor:{form}}"


def _text(ratio: RatioInterval | None) -> str:
    return _NONE if ratio is None else str(ratio)


def _acceptance(each: LevelAcceptance) -> str:
    return f"{each.level} {each.rate:.0%}: {' '.join(f'{chance:.2f}' for chance in each.by_depth)}"


def _choices(row: Summary) -> str:
    """The picks with their shares of steps; nothing if the contender's name says it."""
    first, *others = row.choices
    if not others and (row.contender.endswith(first) or row.contender.endswith("plain-safe")):
        return _NONE
    more = f", {len(others) + 1 - _NAMED_CHOICES} more" if len(others) >= _NAMED_CHOICES else ""
    named = list(row.choices.items())[:_NAMED_CHOICES]
    return ", ".join(f"{name} {share:.0%}" for name, share in named) + more


def _bandwidth(used: float | None, machine: float | None) -> str:
    if used is None:
        return _NONE
    return f"{used / 1e9:.1f}" + (f" ({used / machine:.0%})" if machine else "")


def _prediction(row: Summary) -> str:
    if row.predicted is None or row.prediction is None:
        return _NONE
    return f"{row.predicted:.1f} ({row.prediction.value - 1:+.0%})"


def _peak(row: Summary) -> str:
    if row.peak is None:
        return _NONE
    return f"{row.peak.anonymous_bytes / _MIB:.0f} + {row.peak.file_bytes / _MIB:.0f}"
