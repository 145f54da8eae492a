"""What some tokens are drawn from has the bits of the whole row in which all others are impossible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.allowed_tokens import AllowedTokens, allowed_tokens
from runtime.decoding.distribution import Distribution
from runtime.decoding.exact_math import MOST_SCATTERED, column_sums, scattered_sums, scattered_total, total
from runtime.decoding.sampling import SamplingParams, distribution, draw, probabilities
from tests.runtime.decoding.test_sampling import SETTINGS, logits_of

SIZES = st.sampled_from([1, 9, 40, 511, 512, 700, 3000, 33_000])
# How many tokens are allowed, as a share or a number: one, few, the edge of few, half, nearly all, all.
SHARES = st.sampled_from([1, 3, 40, 300, 2049, 0.5, 0.97, 1.0])
NUMBERS = (0.0, 0.1, 0.3, 0.77, 1 - 2**-53)


def some(rng: np.random.Generator, size: int, share: float) -> np.ndarray:
    """Which tokens are allowed, at least one."""
    count = int(min(share, size)) if isinstance(share, int) else max(1, int(share * size))
    found = np.zeros(size, np.bool_)
    found[rng.choice(size, count, replace=False)] = True
    return found


@settings(max_examples=80, deadline=None)
@given(
    params=SETTINGS,
    size=SIZES,
    share=SHARES,
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.01, 1.0, 3.0, 40.0]),
    kind=st.sampled_from(["usual", "tied", "top_k is all"]),
)
def test_allowed_tokens_have_the_bits_of_the_masked_row(
    params: SamplingParams, size: int, share: float, seed: int, scale: float, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    kept, logits = some(rng, size, share), logits_of(seed, size, scale)
    if kind == "tied":
        logits = np.round(logits)
    if kind == "top_k is all":
        params = SamplingParams(params.temperature, int(np.count_nonzero(kept)), params.top_p, params.min_p)
    tokens, out = rng.integers(0, size, 9), np.empty(size, np.float32)
    before, expected = logits.copy(), probabilities(np.where(kept, logits, np.float32(-np.inf)), tokens, params)
    found = distribution(logits, tokens, params, out, allowed_tokens(np.packbits(kept, bitorder="little"), size))
    assert [found.draw(u) for u in NUMBERS] == [draw(expected, u) for u in NUMBERS]
    assert [found.chance(token) for token in range(0, size, 7)] == expected[::7].tolist()
    np.testing.assert_array_equal(found.dense(out), expected)
    np.testing.assert_array_equal(logits, before)


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([1, 500, 512, 513, 40_000, 70_001]),
    count=st.sampled_from([0, 1, 30, 900, MOST_SCATTERED, MOST_SCATTERED + 1]),
    columns=st.sampled_from([1, 3, 512]),
    seed=st.integers(0, 10**6),
)
def test_scattered_sums_have_the_bits_of_the_whole_row(size: int, count: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = np.unique(rng.integers(0, size, count) // 512 * 512 + rng.integers(0, columns, count))
    places = places[places < size]
    values = (rng.random(len(places)) * 2.0 ** rng.integers(-40, 0, len(places))).astype(np.float32)
    row = np.zeros(size, np.float32)
    row[places] = values
    np.testing.assert_array_equal(scattered_sums(places, values, size), column_sums(row))
    assert scattered_total(places, values, size) == total(row)
    if values.any():
        listed = Distribution(size, values, places)
        assert [listed.draw(u) for u in NUMBERS] == [draw(row, u) for u in NUMBERS]


@pytest.mark.parametrize("share", [3, 300, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("more", [-9, 0, 30])
def test_bits_say_which_tokens_are_allowed(share: float, more: int) -> None:
    """Bits may be fewer than the logits, or more."""
    size = 30_001
    kept = some(np.random.default_rng(3), size + more, share)
    allowed = AllowedTokens(np.packbits(kept, bitorder="little"), size)
    expected = np.zeros(size, np.bool_)
    expected[: len(kept)] = kept[:size]
    np.testing.assert_array_equal(allowed.holds(np.arange(size)), expected)
    np.testing.assert_array_equal([allowed.allows(token) for token in range(size)], expected)
    listed = np.zeros(size, np.bool_) if allowed.few is not None else np.ones(size, np.bool_)
    listed[allowed.excluded if allowed.few is None else allowed.few] ^= True
    np.testing.assert_array_equal(listed, expected)
