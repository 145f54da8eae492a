"""Sampling: Hugging Face's law, numbers fixed by position, and draws that never leave the distribution."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import PocketspecError
from runtime.decoding.exact_math import COLUMNS
from runtime.decoding.sampling import RandomStream, SamplingParams, draw, greedy_token, probabilities, uniform
from runtime.errors import LogitsError
from tests.goodness_of_fit import chi_square, uniformity

PLAIN = SamplingParams(temperature=1.0)
PINNED = (0.1296456182997474, 0.751424204485591, 0.18099517245470187)


def logits_of(seed: int, vocab: int, scale: float = 3.0) -> Any:
    return (np.random.default_rng(seed).standard_normal(vocab) * scale).astype(np.float32)


def reference(logits: Any, tokens: Any, params: SamplingParams) -> Any:
    """The definition, in float64 and with full sorts."""
    row = logits.astype(np.float64)
    for token in {token for token in tokens if token < len(row)}:
        row[token] *= params.repetition_penalty if row[token] < 0 else 1 / params.repetition_penalty
    row /= params.temperature
    if 0 < params.top_k < len(row):
        row[row < np.sort(row)[-params.top_k]] = -np.inf
    probs = np.exp(row - row.max())
    probs /= probs.sum()
    if params.top_p < 1:
        above = np.array([probs[probs > own].sum() for own in probs])
        probs = np.where((above < params.top_p) | (probs == probs.max()), probs, 0)
    probs[probs < params.min_p * probs.max()] = 0
    return probs / probs.sum()


SETTINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 40, 999]),
    top_p=st.sampled_from([0.0, 0.2, 0.77, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 0.7]),
)


@settings(max_examples=200, deadline=None)
@given(SETTINGS, st.integers(0, 10**6), st.sampled_from([1, 2, 17, 300]), st.lists(st.integers(0, 320), max_size=9))
def test_probabilities_follow_the_definition(params: SamplingParams, seed: int, vocab: int, tokens: list[int]) -> None:
    logits = logits_of(seed, vocab)
    kept = logits.copy()
    probs, expected = probabilities(logits, tokens, params), reference(logits, tokens, params)
    assert probs.dtype == np.float32
    assert np.array_equal(probs > 0, expected > 0)
    np.testing.assert_allclose(probs, expected, rtol=2e-4, atol=1e-9)
    assert np.array_equal(logits, kept)


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 1},
        {"top_k": 50},
        {"top_k": 20_000},
        {"top_p": 0.05},
        {"top_p": 0.9},
        {"top_p": 0.9999},
        {"top_k": 3000, "top_p": 0.5},
        {"min_p": 0.1},
    ],
)
def test_large_vocabulary(scale: float, change: dict[str, Any]) -> None:
    """The searches that stand in for sorts leave the same tokens, where all is sampled, bracketed and cut."""
    logits = logits_of(7, 151_936, scale)
    params = SamplingParams(temperature=0.9, **change)
    probs = probabilities(logits, (), params).astype(np.float64)
    exact = np.exp((logits - logits.max()) / np.float32(0.9)).astype(np.float64)
    order = np.argsort(-exact, kind="stable")
    exact = exact[order]
    count = params.top_k or len(exact)
    share = np.cumsum(exact[:count]) / exact[:count].sum()
    count = min(int(np.searchsorted(share, params.top_p)) + 1, count)
    count = min(count, int(np.count_nonzero(exact >= params.min_p)))
    kept = np.flatnonzero(probs)
    assert abs(len(kept) - count) <= max(2, count // 1000)  # float32 rounds at the edge
    smaller = min(len(kept), count)
    assert set(order[:smaller].tolist()) <= set(kept.tolist()) or set(kept.tolist()) <= set(order[:count].tolist())
    assert probs.sum() == pytest.approx(1, abs=1e-4)


def test_top_k_where_the_sample_misleads() -> None:
    logits = logits_of(1, 50_000, 0.1)
    logits[::37] += 10
    for k in (50, 1000, 3000):
        kept = np.flatnonzero(probabilities(logits, (), SamplingParams(1.0, top_k=k)))
        assert set(kept.tolist()) == set(np.argsort(-logits)[:k].tolist())


def test_ties_at_the_edge_stay_together() -> None:
    logits = np.array([2, 1, 1, 1, 0], np.float32)
    assert (probabilities(logits, (), SamplingParams(1.0, top_k=2)) > 0).tolist() == [True] * 4 + [False]
    assert (probabilities(logits, (), SamplingParams(1.0, top_p=0.5)) > 0).tolist() == [True] * 4 + [False]
    even = np.zeros(5000, np.float32)
    assert np.count_nonzero(probabilities(even, (), SamplingParams(1.0, top_p=0.5))) == 5000


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_transformers(seed: int) -> None:
    torch = pytest.importorskip("torch")
    generation = pytest.importorskip("transformers.generation.utils")
    rng = np.random.default_rng(seed)
    params = SamplingParams(
        temperature=float(rng.uniform(0.3, 1.5)),
        top_k=int(rng.integers(5, 400)),
        top_p=float(rng.uniform(0.3, 0.99)),
        min_p=float(rng.uniform(0, 0.05)),
        repetition_penalty=float(rng.uniform(1.05, 1.5)),
    )
    logits, tokens = logits_of(seed, 1000), rng.integers(0, 1000, 60)
    settings = {field.name: getattr(params, field.name) for field in dataclasses.fields(params) if field.name != "seed"}
    config = generation.GenerationConfig(do_sample=True, **settings)
    mixin = generation.GenerationMixin()
    mixin.config = SimpleNamespace(is_encoder_decoder=False)
    processors = mixin._get_logits_processor(config, input_ids_seq_length=60)
    assert len(processors) == 5
    scores = processors(torch.tensor(tokens)[None], torch.tensor(logits, dtype=torch.float64)[None].clone())
    np.testing.assert_allclose(
        probabilities(logits, tokens, params), scores.softmax(-1)[0].numpy(), rtol=2e-4, atol=1e-9
    )


def test_greedy() -> None:
    logits = np.array([0, 3, 3, 1], np.float32)
    greedy = SamplingParams()
    assert greedy_token(logits, (), greedy) == 1
    assert probabilities(logits, (), greedy).tolist() == [0, 1, 0, 0]
    penalized = SamplingParams(repetition_penalty=1.5)
    assert greedy_token(logits, [1], penalized) == 2
    assert greedy_token(logits, [1, 1, 2, 2, 99], penalized) == 1
    assert greedy_token(np.array([-1, -1.2], np.float32), np.array([0], np.int32), penalized) == 1
    assert logits.tolist() == [0, 3, 3, 1]


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e6])
def test_extreme_temperatures_and_logits(temperature: float) -> None:
    logits = np.array([1e30, -np.inf, 0, -1e30], np.float32)
    probs = probabilities(logits, (), SamplingParams(temperature, top_p=0.9))
    assert probs.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_refused(bad: float, temperature: float) -> None:
    with pytest.raises(LogitsError, match=f"the largest logit is {bad}: .* python -m runtime inspect"):
        probabilities(np.array([0, bad, 1], np.float32), (), SamplingParams(temperature))
    with pytest.raises(LogitsError, match="-inf"):
        probabilities(np.full(4, -np.inf, np.float32), (), SamplingParams(temperature))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("temperature", -0.1, "0 to 1e\\+06; 0 is greedy"),
        ("temperature", math.nan, "0 to 1e\\+06"),
        ("temperature", 1e-9, "0 or 1e-06 to 1e\\+06; 0 is greedy"),
        ("temperature", "hot", "0 to 1e\\+06"),
        ("top_k", -1, "whole numbers from 0 to 2147483647; 0 keeps every token"),
        ("top_k", 1.5, "whole numbers"),
        ("top_p", 1.01, "0 to 1; 1 keeps every token"),
        ("min_p", -0.5, "0 to 1; 0 keeps every token"),
        ("repetition_penalty", 0, "0.001 to 1000; 1 is none"),
        ("seed", -1, "whole numbers from 0 to 18446744073709551615"),
        ("seed", True, "whole numbers"),
    ],
)
def test_bad_settings_are_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(PocketspecError, match=f"^{field} is {value!r}, allowed: {allowed}") as caught:
        SamplingParams(**{field: value})
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


# Draws


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.floats(0, 1, exclude_max=True))
def test_draw_inverts_the_cumulated_distribution(weights: list[float], u: float) -> None:
    probs = np.array(weights, np.float32)
    if not probs.any():
        return
    token = draw(probs, u)
    ends = np.cumsum(probs, dtype=np.float64)
    assert probs[token] > 0
    assert ends[token] >= u * ends[-1] * (1 - 1e-12)
    assert token == 0 or ends[token - 1] <= u * ends[-1] * (1 + 1e-12)


@pytest.mark.parametrize("vocab", [1, 511, 512, 513, 5000, 151_936])
def test_draw_never_returns_an_impossible_token(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    for possible in (1, 3, vocab // 2):
        probs = np.zeros(vocab, np.float32)
        probs[rng.choice(vocab, min(vocab, max(1, possible)), replace=False)] = rng.random(min(vocab, max(1, possible)))
        for u in (0.0, 1e-300, 0.5, 1 - 2.0**-53, *rng.random(50)):
            assert probs[draw(probs, u)] > 0
        drawable = sorted(np.flatnonzero(probs).tolist(), key=lambda token: (token % COLUMNS, token // COLUMNS))
        assert draw(probs, 0.0) == drawable[0]
        assert draw(probs, 1 - 2.0**-53) == drawable[-1]


def test_draw_survives_rounding_at_the_end() -> None:
    """Sums in blocks and running sums differ in the last bits, which can put the largest number past the end."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        probs = rng.random(1500) * (rng.random(1500) < 0.5)
        assert probs[draw(probs, 1 - 2.0**-53)] > 0


def test_draws_have_the_law() -> None:
    probs = probabilities(logits_of(3, 2000, 1.0), (), PLAIN)
    counts = np.bincount([draw(probs, uniform(1, position)) for position in range(20_000)], minlength=2000)
    heavy = probs >= 5 / 20_000
    observed = [*counts[heavy], counts[~heavy].sum()]
    expected = [*probs[heavy].astype(np.float64), probs[~heavy].sum(dtype=np.float64)]
    assert chi_square(observed, expected) > 1e-4


def test_numbers_are_the_same_everywhere() -> None:
    """Pinned: seeded output must not change between platforms and versions."""
    assert uniform(0, 0) == PINNED[0]
    assert uniform(1, 2, RandomStream.DRAFTER, 3) == PINNED[1]
    assert uniform((1 << 64) - 1, 1 << 40, RandomStream.VERIFIER) == PINNED[2]


def test_numbers_are_uniform_and_unrelated() -> None:
    streams = {
        (stream, seed, index): np.array([uniform(seed, position, stream, index) for position in range(4000)])
        for stream in RandomStream
        for seed in (0, 1)
        for index in (0, 1)
    }
    for numbers in streams.values():
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert uniformity(numbers) > 1e-4
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.08
    correlations = np.corrcoef(np.stack(list(streams.values()))) - np.eye(len(streams))
    assert np.abs(correlations).max() < 0.08
    assert len({uniform(seed, position) for seed in range(60) for position in range(60)}) == 3600
