"""Reports an export: the plan first, then progress on standard error, and the measured result at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from export.manifest import Level, LogitCheck, Manifest
from memory.progress_bars import ProgressBars


@dataclass(frozen=True)
class PlannedLevel:
    """A level in the plan. Sizes and times are estimates; a ``finished`` level was completed by an earlier run."""

    name: str
    role: str
    source: str
    weights: str
    parameters: int
    file_bytes: int
    seconds: float
    peak_bytes: int
    finished: bool


@dataclass(frozen=True)
class LevelTiming:
    """Seconds of the four parts of a level; peaks of memory (see ``PeakWatch``) after writing weights, and in all."""

    graph_seconds: float
    weights_seconds: float
    check_seconds: float
    effects_seconds: float
    export_peak_bytes: int | None
    check_peak_bytes: int | None


class Reporter(Protocol):
    """Receives the reports of an export."""

    def plan(self, output: Path, levels: Sequence[PlannedLevel], free_bytes: int) -> None:
        """The plan, before anything is done."""

    def stage(self, level: str, what: str, total_bytes: int | None = None) -> None:
        """A part of a level begins; with ``total_bytes``, calls of ``advance`` will follow."""

    def advance(self, num_bytes: int) -> None:
        """``num_bytes`` more bytes of the part are done."""

    def note(self, text: str) -> None:
        """Something that the user should know and that is no error."""

    def timing(self, level: str, timing: LevelTiming) -> None:
        """A level is complete; ``timing`` is what it took."""

    def result(self, output: Path, manifest: Manifest, done_before: bool) -> None:
        """The bundle is complete; ``done_before``: there was nothing to do."""


class SilentReporter:
    """Says nothing."""

    def plan(self, output: Path, levels: Sequence[PlannedLevel], free_bytes: int) -> None:
        """Nothing."""

    def stage(self, level: str, what: str, total_bytes: int | None = None) -> None:
        """Nothing."""

    def advance(self, num_bytes: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def timing(self, level: str, timing: LevelTiming) -> None:
        """Nothing."""

    def result(self, output: Path, manifest: Manifest, done_before: bool) -> None:
        """Nothing."""


class ConsoleReporter:
    """Writes tables to ``out`` and progress to ``progress``. A context: leaving it stops the progress bars."""

    def __init__(self, out: Console, progress: Console) -> None:
        self._out = out
        self._bars = ProgressBars("bytes", progress)
        self._timings: dict[str, LevelTiming] = {}

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def plan(self, output: Path, levels: Sequence[PlannedLevel], free_bytes: int) -> None:
        """The table of levels, and where they go."""
        table = Table(title=f"Plan: {output}", title_justify="left")
        for column in ("level", "role", "from", "weights"):
            table.add_column(column)
        for column in ("parameters", "files", "time"):
            table.add_column(column, justify="right")
        for level in levels:
            size, duration = f"~{_megabytes(level.file_bytes)}", f"~{_duration(level.seconds)}"
            last = ("done", "") if level.finished else (size, duration)
            count = f"{level.parameters / 1e6:,.1f} M"
            table.add_row(level.name, level.role, level.source, level.weights, count, *last)
        self._out.print(table)
        pending = [level for level in levels if not level.finished]
        self._out.print(
            f"about {_megabytes(sum(level.file_bytes for level in pending))} to write,"
            f" {_duration(sum(level.seconds for level in pending))} and the checks,"
            f" {_megabytes(max((level.peak_bytes for level in pending), default=0))} of memory;"
            f" {_megabytes(free_bytes)} of the disk free"
        )

    def stage(self, level: str, what: str, total_bytes: int | None = None) -> None:
        """Begins a bar, which moves to and fro if no bytes are given."""
        self._bars.begin(f"{level}: {what}", total_bytes)

    def advance(self, num_bytes: int) -> None:
        """Moves the bar."""
        self._bars.advance(num_bytes)

    def note(self, text: str) -> None:
        """Prints one line."""
        self._out.print(f"note: {text}")

    def timing(self, level: str, timing: LevelTiming) -> None:
        """Keeps the timing for the result."""
        self._bars.end()
        self._timings[level] = timing

    def result(self, output: Path, manifest: Manifest, done_before: bool) -> None:
        """Prints sizes, errors and checks of all levels, and times and memory of those exported now."""
        self._bars.stop()
        if done_before:
            self._out.print(f"nothing to do: {output} is complete, and every file is as it was written")
        self._out.print(_levels_table(output, manifest))
        self._out.print(_checks_table(manifest))
        if any(level.kv_effects for level in manifest.levels):
            self._out.print(_effects_table(manifest))
        for name, timing in self._timings.items():
            self._out.print(_timing_line(name, timing))


def _levels_table(output: Path, manifest: Manifest) -> Table:
    """Column ``native`` is the size of packed weights, which the first run writes if the bundle has none."""
    total = sum(entry.bytes for entry in manifest.files.values())
    table = Table(title=f"Bundle: {output}, {_megabytes(total)}", title_justify="left")
    for column in ("level", "role", "source", "weights", "block", "method"):
        table.add_column(column)
    for column in ("size", "native", "weight error"):
        table.add_column(column, justify="right")
    for level in manifest.levels:
        stored = level.quantization
        error = "" if stored.error is None else f"{stored.error:.2%}"
        block, method = str(stored.block_size or ""), stored.method or ""
        size, native = (
            _megabytes(level.weight_bytes),
            "" if level.native is None else _megabytes(level.native.data_bytes),
        )
        table.add_row(level.name, level.role, _source(level), stored.weights, block, method, size, native, error)
    return table


def _checks_table(manifest: Manifest) -> Table:
    table = Table(title="Check against the reference model in fp32", title_justify="left")
    table.add_column("level")
    table.add_column("text", max_width=40)
    for column in ("tokens", "max diff", "mean diff", "same argmax", "ppl reference", "ppl export", "as target"):
        table.add_column(column, justify="right")
    for level in manifest.levels:
        if (check := level.check) is not None:
            agreement = "" if level.agreement is None else f"{level.agreement:.1%}"
            table.add_row(level.name, *_check_cells(check), agreement)
    return table


def _effects_table(manifest: Manifest) -> Table:
    table = Table(title="KV types against fp32", title_justify="left")
    for column in ("level", "type", "kernels"):
        table.add_column(column)
    for column in ("ppl", "steps/s", "at rows"):
        table.add_column(column, justify="right")
    for level in manifest.levels:
        for kind, effect in level.kv_effects.items():
            perplexity = "" if effect.perplexity is None else f"x {effect.perplexity:.4f}"
            table.add_row(level.name, kind, effect.kernels, perplexity, f"x {effect.speed:.2f}", f"{effect.rows:,}")
    return table


def _check_cells(check: LogitCheck) -> tuple[str, ...]:
    return (
        check.text,
        str(check.tokens),
        f"{check.max_difference:.2g}",
        f"{check.mean_difference:.2g}",
        f"{check.argmax_agreement:.1%}",
        f"{check.reference_perplexity:,.2f}",
        f"{check.perplexity:,.2f}",
    )


def _timing_line(name: str, timing: LevelTiming) -> str:
    exported = timing.graph_seconds + timing.weights_seconds
    return (
        f"{name}: exported in {exported:.1f} s (graph {timing.graph_seconds:.1f} s, weights"
        f" {timing.weights_seconds:.1f} s), peak memory {_megabytes(timing.export_peak_bytes)};"
        f" check {timing.check_seconds:.1f} s, KV types {timing.effects_seconds:.1f} s, peak memory"
        f" {_megabytes(timing.check_peak_bytes)}"
    )


def _source(level: Level) -> str:
    """Where a level came from; stand-ins are labelled, so that nobody takes their numbers for a trained model's."""
    label = level.source.id if level.source.revision is None else f"{level.source.id}@{level.source.revision[:8]}"
    return label if level.source.kind == "trained" else f"{label} ({level.source.kind})"


def _megabytes(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
