"""Scores of a text are what single steps give, in any chunks and behind any cache, and answers go on as before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.manifest import PocketspecError
from memory import OverBudgetError, Request
from runtime.decoding.logprobs import TokenLogprob, token_logprob
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.kernels.library import library_path
from runtime.speculation.request import Speculation

CONTEXT, TOP = 100, 3


@pytest.fixture(scope="module")
def native(tiny_bundle_int4: Path) -> Iterator[Engine]:
    if not library_path().is_file():
        pytest.skip("the native kernels are not built")
    with Engine.open(tiny_bundle_int4, Request(context=CONTEXT, shape="tree", nodes=6), kernels="native") as engine:
        yield engine


@pytest.fixture(scope="module")
def tokens(native: Engine) -> list[int]:
    return np.random.default_rng(3).integers(0, native.target.vocab_size, CONTEXT).tolist()


@pytest.fixture(scope="module")
def single_steps(native: Engine, tokens: list[int]) -> list[TokenLogprob]:
    """Every token by a forward of one row."""
    with native.alone():
        native.target.cache.rollback(0)
        return [
            token_logprob(native.target.forward([token]).logits[0], following, TOP)
            for token, following in pairwise(tokens)
        ]


def test_scores_are_those_of_single_steps(native: Engine, tokens: list[int], single_steps: list[TokenLogprob]) -> None:
    assert list(native.score(tokens, logprobs=TOP)) == single_steps


@pytest.mark.parametrize("held", [0, 1, 30, CONTEXT - 1])
@pytest.mark.parametrize("first", [1, 2, 31, CONTEXT - 1, CONTEXT])
def test_what_the_cache_holds_changes_no_score(
    native: Engine, tokens: list[int], single_steps: list[TokenLogprob], held: int, first: int
) -> None:
    with native.alone():
        native.target.cache.rollback(0)
        native.target.prefill([*tokens[:held], *[1, 2, 3][: CONTEXT - held]])
    assert list(native.score(tokens, first=first, logprobs=TOP)) == single_steps[first - 1 :]


def test_an_answer_is_reported_as_its_text_is_scored(native: Engine) -> None:
    prompt, sampling = native.encode("Hello"), SamplingParams(temperature=0.9, seed=3)
    for acceptance in ("match", "block", "recursive"):
        speculation = Speculation("tiny-drafter", 4, acceptance=acceptance)
        chunks = list(
            native.generate(prompt, sampling=sampling, speculation=speculation, max_new_tokens=20, logprobs=TOP)
        )
        reported = [each for chunk in chunks for each in chunk.logprobs]
        whole = [*prompt, *(each.token for each in reported)]
        assert list(native.score(whole, first=len(prompt), logprobs=TOP)) == reported


def test_an_answer_after_a_score_that_was_left_is_as_ever(native: Engine, tokens: list[int]) -> None:
    expected = [chunk.step.tokens for chunk in native.generate("Hello", max_new_tokens=10)]
    scores = native.score(tokens)
    assert next(scores).token == tokens[1]
    assert [chunk.step.tokens for chunk in native.generate("Hello", max_new_tokens=10)] == expected
    assert list(scores) == []


def test_logits_stay_within_the_plan(native: Engine, tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    widest, forward = [0], native.target.forward

    def watched(rows: Any, *more: Any) -> Any:
        widest.append(len(forward(rows, *more).logits))
        native.target.cache.rollback(native.target.cache.length - len(rows))
        return forward(rows, *more)

    monkeypatch.setattr(native.target, "forward", watched)
    list(native.score(tokens))
    assert max(widest) == native.plan.target.logits_rows


def test_a_budget_that_changes_changes_no_score(
    native: Engine, tokens: list[int], single_steps: list[TokenLogprob]
) -> None:
    whole, rows = native.plan.budget_bytes, native.plan.target.logits_rows
    scores = native.score(tokens, logprobs=TOP)
    found = [next(scores)]
    with pytest.raises(OverBudgetError) as error:
        native.set_budget(1_000_000)
    native.set_budget(error.value.smallest_bytes)
    found += [next(scores)]
    assert native.plan.target.logits_rows < rows
    found += scores
    native.set_budget(whole)
    assert found == single_steps


def test_a_text_is_taken_as_it_is(native: Engine) -> None:
    assert [each.token for each in native.score("Hello there")] == native.encode("Hello there", raw=True)[1:]
    assert list(native.score([5])) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"prompt": []}, "a text of 0 tokens"),
        ({"prompt": [1] * (CONTEXT + 1)}, "allowed are 1 to 100 in a context of 100"),
        ({"prompt": [1, 2], "first": 0}, "first is 0, allowed: 1 to 2"),
        ({"prompt": [1, 2], "first": 3}, "first is 3, allowed: 1 to 2"),
        ({"prompt": [1, 2], "first": "1"}, "first is '1', allowed"),
        ({"prompt": [1, 2], "logprobs": None}, "logprobs is None, allowed"),
        ({"prompt": [1, 1 << 20]}, "beyond the model's vocabulary"),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_refused(native: Engine, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(PocketspecError, match=reason):
        native.score(**settings)
