"""Draws ``docs/results.svg`` from a table of ``runtime/bench/RESULTS.md``: tokens a second at the cost of a 1.5B model.

python -m runtime.bench.results_picture

Needs the standard library alone. The picture brings its own colours for light and dark pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = Path(__file__).parents[2] / "docs" / "results.svg"
RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "## Speculation at the cost of a 1.5B model"

_ROW = re.compile(r"\| \**([^|*]+?)\** \| ([\d.]+) \(([\d.]+)-([\d.]+)\) \|")
_KINDS = {"portable": "ONNX Runtime’s kernels", "native": "our kernels", "ceiling": "our kernels, a perfect drafter"}
_NOTE = "Median and range of three repeats; int4, greedy; two cores of an AMD EPYC (Zen 3, no AVX512), 2026-11-21"
_LEFT, _RIGHT, _TOP, _PITCH, _BAR = 220, 890, 92, 36, 24
_STYLE = """
    text { font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; font-size: 14px; }
    text { fill: #35495e; }
    .title { font-size: 18px; font-weight: 600; fill: #16324f; }
    .note { font-size: 12.5px; fill: #656d76; }
    .value { font-weight: 600; fill: #16324f; }
    .portable { fill: #a9b4c0; }
    .native { fill: #3b7dd8; }
    .ceiling { fill: #bcd5f5; }
    .range { stroke: #16324f; stroke-width: 1.5; }
    .axis { stroke: #7d8590; stroke-width: 1; }
    @media (prefers-color-scheme: dark) {
      text { fill: #b4c4d6; }
      .title, .value { fill: #e2ecf7; }
      .note { fill: #9aa4af; }
      .portable { fill: #59636e; }
      .native { fill: #4a8fe7; }
      .ceiling { fill: #27466b; }
      .range { stroke: #e2ecf7; }
    }
"""


@dataclass(frozen=True)
class Bar:
    """One row of the table: its name, the median of its tokens a second, the lowest and the highest."""

    name: str
    median: float
    low: float
    high: float

    @property
    def kind(self) -> str:
        """Whose kernels ran, or the ceiling of any drafter."""
        if "perfect drafter" in self.name:
            return "ceiling"
        return self.name.replace(",", "").split()[0]


def read_bars(page: str) -> list[Bar]:
    """The rows of the table under ``HEADING``."""
    chapter = page.split(HEADING, 1)[1].split("\n## ", 1)[0]
    return [Bar(name, float(median), float(low), float(high)) for name, median, low, high in _ROW.findall(chapter)]


def draw(page: str) -> str:
    """The picture, as SVG, of a page of results."""
    bars = read_bars(page)
    most = max(bar.high for bar in bars)
    bottom = _TOP + _PITCH * len(bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {bottom + 44}" role="img" aria-labelledby="title">',
        f"  <style>{_STYLE}  </style>",
        '  <text class="title" id="title" x="16" y="30">Tokens a second at the cost of a 1.5B model</text>',
        *_legend(),
        *(line for place, bar in enumerate(bars) for line in _bar(bar, _TOP + _PITCH * place, most)),
        f'  <path class="axis" d="M{_LEFT} {_TOP - 8}V{bottom}"/>',
        f'  <text class="note" x="16" y="{bottom + 28}">{_NOTE}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _legend() -> Iterator[str]:
    left = 16
    for kind, label in _KINDS.items():
        yield f'  <rect class="{kind}" x="{left}" y="48" width="14" height="14" rx="3"/>'
        yield f'  <text x="{left + 21}" y="60">{label}</text>'
        left += 52 + round(7.4 * len(label))


def _bar(bar: Bar, top: int, most: float) -> Iterator[str]:
    def across(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * value / most, 1)

    middle = top + _BAR / 2
    width = round(across(bar.median) - _LEFT, 1)
    yield f'  <text x="{_LEFT - 12}" y="{middle + 5}" text-anchor="end">{escape(bar.name)}</text>'
    yield f'  <rect class="{bar.kind}" x="{_LEFT}" y="{top}" width="{width}" height="{_BAR}" rx="3"/>'
    yield f'  <path class="range" d="M{across(bar.low)} {middle}H{across(bar.high)}"/>'
    yield f'  <text class="value" x="{across(bar.high) + 10}" y="{middle + 5}">{bar.median:.1f}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(RESULTS.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
