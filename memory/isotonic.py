"""Isotonic regression: the sequence that never falls and is nearest to given values."""

from __future__ import annotations

from collections.abc import Sequence


def nearest_rising(values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """The sequence that never falls with the least weighted sum of squared distances from ``values``.

    ``weights`` are above 0, None means equal ones. Neighbours that fall are given their mean (pool adjacent violators).
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for value, weight in zip(values, [1.0] * len(values) if weights is None else weights, strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            before, heavy, more = pools.pop()
            mean, total, count = (before * heavy + mean * total) / (heavy + total), heavy + total, count + more
        pools.append((mean, total, count))
    return [mean for mean, _, count in pools for _ in range(count)]
