"""Measured costs as text: rows on every level, the loop around them, and the memory bandwidth that is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from memory.costs import MeasuredCosts, RowCosts


def cost_lines(bundle: str, costs: MeasuredCosts, read_bytes: Mapping[str, int]) -> Iterator[str]:
    """A table for every level, then the rest. ``read_bytes`` by level are the bytes of weights that a step reads."""
    threads = "one thread per core" if costs.threads is None else f"{costs.threads} thread{'s' * (costs.threads > 1)}"
    form = ", the short form" if costs.quick else ""
    yield f"{bundle} on this device: {costs.kernels} kernels, {threads}{form}"
    for name, level in costs.levels.items():
        yield ""
        yield from _table(name, level)
        seconds = level.seconds(1, level.contexts[0])
        yield ""
        rate = f"{read_bytes[name] / seconds / 1e9:.1f} GB/s of the {costs.bandwidth / 1e9:.1f} this machine reads"
        yield (
            f"{name}: a step of one row takes {seconds * 1e3:.3f} ms and reads {read_bytes[name] / 1e6:,.1f} MB of"
            f" weights, {rate}"
        )
    yield ""
    yield (
        f"beside forwards: {costs.step_seconds * 1e6:.0f} us for a step,"
        f" {costs.node_seconds['chain'] * 1e6:.0f} us for a node of a chain,"
        f" {costs.node_seconds['tree'] * 1e6:.0f} us for one of a tree;"
        f" {costs.suffix_seconds * 1e6:.0f} us to ask the suffix drafter"
    )


def _table(name: str, level: RowCosts) -> Iterator[str]:
    """Milliseconds by rows for every context, and as multiples of one row."""
    heads = [head for context in level.contexts for head in (f"ms behind {context:,}", "x 1 row")]
    yield f"| {name}: rows | {' | '.join(heads)} |"
    yield "| ---: |" + " ---: |" * len(heads)
    for place, rows in enumerate(level.rows):
        pairs = [(curve[place], curve[place] / curve[0]) for curve in level.table]
        cells = [cell for seconds, ratio in pairs for cell in (f"{seconds * 1e3:.3f}", f"{ratio:.2f}")]
        yield f"| {rows} | {' | '.join(cells)} |"
