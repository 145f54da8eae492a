"""What forwards and the decoding loop cost on one device, as measured there; written and read as JSON.

A forward of k rows may cost nearly as much as one of a single row, or nearly k times as much. Which one depends on
processor, kernels, precision and the length of the text, so it must be measured. ``runtime.calibration`` measures; the
planner and the scheduler read.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import get_args

from export.manifest import PocketspecError
from export.records import build_record
from export.untrusted import UntrustedError, parse_json
from memory.isotonic import nearest_rising
from memory.plan import Shape

SCHEMA = 1


class CostsError(PocketspecError, ValueError):
    """Measured costs that cannot be read."""


@dataclass(frozen=True)
class RowCosts:
    """Seconds of forwards through one level: ``table[i][j]`` is one of ``rows[j]`` rows behind ``contexts[i]`` rows.

    ``rows`` and ``contexts`` increase. Seconds do not fall with rows; ``make_row_costs`` takes care of that.
    """

    contexts: tuple[int, ...]
    rows: tuple[int, ...]
    table: tuple[tuple[float, ...], ...]

    def seconds(self, rows: int, context: int) -> float:
        """Seconds of a forward of ``rows`` rows behind ``context`` rows, at least 0.

        Interpolated between what was measured, extrapolated beyond the last, constant before the first. If one number
        of rows alone was measured, every number costs as much.
        """
        curves = [_line(self.rows, curve, rows) for curve in self.table]
        return max(_line(self.contexts, curves, context), 0.0)


def make_row_costs(seconds: Mapping[int, Mapping[int, float]]) -> RowCosts:
    """A level's costs from median seconds by context, then by rows; every context has the same rows.

    More rows cost no less, a longer context costs no less, and what it adds does not fall with rows. Where noise
    contradicts this, the nearest seconds that do not are taken (isotonic regression, one context after the other).
    """
    contexts = sorted(seconds)
    rows = sorted(seconds[contexts[0]])
    table = [nearest_rising([seconds[contexts[0]][count] for count in rows])]
    for before, context in pairwise(contexts):
        dearer = nearest_rising([seconds[context][count] - seconds[before][count] for count in rows])
        table.append([low + max(more, 0.0) for low, more in zip(table[-1], dearer, strict=True)])
    return RowCosts(tuple(contexts), tuple(rows), tuple(map(tuple, table)))


@dataclass(frozen=True)
class MeasuredCosts:
    """What was measured on one device with the levels that were open.

    ``levels``: forwards by the name of the level, with the numbers of rows that really ran; callers account for
    padding. ``step_seconds``: the loop's own work for every step. ``node_seconds``: its work for each node of a draft,
    by shape; that of a tree includes what verifying it costs more than a chain of as many rows. ``suffix_seconds``: one
    draft of the suffix drafter. ``bandwidth``: bytes a second that this machine reads from memory. ``threads``: as
    planned, None means one for every core. ``kernels``: their name. ``quick``: measured in the short form.
    """

    levels: Mapping[str, RowCosts]
    step_seconds: float
    node_seconds: Mapping[Shape, float]
    suffix_seconds: float
    bandwidth: float
    threads: int | None
    kernels: str
    quick: bool
    schema: int = SCHEMA


def dump_costs(costs: MeasuredCosts) -> str:
    """The costs as JSON text."""
    return json.dumps(asdict(costs), indent=2) + "\n"


def parse_costs(text: str, where: str = "the costs") -> MeasuredCosts:
    """The costs in JSON ``text``, as ``dump_costs`` wrote it; CostsError names ``where`` and what is wrong."""
    try:
        data = parse_json(text)
    except UntrustedError as error:
        raise CostsError(f"{where} {error}; run python -m runtime calibrate again") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if type(found) is not int or found != SCHEMA:
        raise CostsError(
            f"{where} has cost schema {found!r:.20}, this version reads {SCHEMA}; run python -m runtime calibrate again"
        )
    try:
        costs: MeasuredCosts = build_record(MeasuredCosts, data, where)
    except (UntrustedError, OverflowError) as error:
        raise CostsError(f"{_one_line(error)}; run python -m runtime calibrate again") from None
    if fault := next(_faults(costs), None):
        raise CostsError(f"{where}: {fault}; run python -m runtime calibrate again")
    return costs


def _faults(costs: MeasuredCosts) -> Iterator[str]:
    """What is wrong with costs that no measurement gives."""
    for name, level in costs.levels.items():
        for what, counts, least in (("rows", level.rows, 1), ("contexts", level.contexts, 0)):
            if not counts or counts[0] < least or not _increase(counts):
                yield f"{what} of {name} do not increase from {least} on"
        if [len(level.rows)] * len(level.contexts) != [len(curve) for curve in level.table]:
            yield f"{name} has no table of {len(level.contexts)} x {len(level.rows)} seconds"
        elif not all(_is_time(value) and value > 0 for curve in level.table for value in curve):
            yield f"{name} has seconds that are no times"
        elif any(low > high for curve in level.table for low, high in pairwise(curve)):
            yield f"{name} has more rows that cost less"
    if set(costs.node_seconds) != set(get_args(Shape)):
        yield f"node_seconds are of {_named(costs.node_seconds)}, expected {_named(get_args(Shape))}"
    if not all(map(_is_time, (costs.step_seconds, costs.suffix_seconds, *costs.node_seconds.values()))):
        yield "step_seconds, node_seconds and suffix_seconds must be times"
    if not (_is_time(costs.bandwidth) and costs.bandwidth > 0):
        yield f"a bandwidth of {costs.bandwidth}, expected more than 0"


def _is_time(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _increase(counts: Sequence[int]) -> bool:
    return all(low < high for low, high in pairwise(counts))


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _line(places: Sequence[int], values: Sequence[float], place: int) -> float:
    """``values``, given at ``places``, at ``place``: interpolated, extrapolated beyond the last, constant before."""
    if len(places) == 1 or place <= places[0]:
        return values[0]
    low = min(bisect_right(places, place) - 1, len(places) - 2)
    if place == places[low + 1]:
        return values[low + 1]
    slope = (values[low + 1] - values[low]) / (places[low + 1] - places[low])
    return values[low] + slope * (place - places[low])
