"""Log probabilities are the model's own, from the rows that were verified, and the same with every drafter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import PocketspecError
from memory import Request
from runtime.decoding.draft import Step
from runtime.decoding.logprobs import TokenLogprob, most_probable, token_logprob
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.errors import LogitsError
from runtime.kernels.library import library_path
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import TinyModels

PROMPT, TOP = [72, 101, 108, 108, 111, 32, 116, 104, 101], 5
SAMPLINGS = [SamplingParams(), SamplingParams(temperature=0.8, top_k=30, seed=5, repetition_penalty=1.2)]
SPECULATIONS = [Speculation("tiny-drafter", 4), Speculation("tiny-drafter", 7, "tree"), Speculation("suffix", 5)]


@pytest.fixture(scope="module")
def native(tiny_bundle_int4: Path) -> Iterator[Engine]:
    if not library_path().is_file():
        pytest.skip("the native kernels are not built")
    with Engine.open(tiny_bundle_int4, Request(context=200, shape="tree", nodes=12), kernels="native") as engine:
        yield engine


def steps_of(engine: Engine, speculation: Speculation, sampling: SamplingParams, **more: Any) -> list[Step]:
    rule = StopRule(eos=(), max_new_tokens=30)
    asked = {"logprobs": TOP, "sampling": sampling, **more}
    return list(engine.steps(PROMPT, stop=rule, speculation=speculation, **asked))


def logprobs_of(steps: list[Step]) -> list[TokenLogprob]:
    return [each for step in steps for each in step.logprobs]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("speculation", SPECULATIONS, ids=str)
def test_they_are_the_same_with_every_drafter(
    native: Engine, speculation: Speculation, sampling: SamplingParams
) -> None:
    steps = steps_of(native, speculation, sampling)
    assert logprobs_of(steps) == logprobs_of(steps_of(native, PLAIN, sampling))
    assert [tuple(each.token for each in step.logprobs) for step in steps] == [step.tokens for step in steps]
    assert len(steps) < 30 or speculation.drafter == "suffix", "no draft was accepted, so nothing was tried"


def test_they_are_torchs_log_softmax(tiny_bundle: Path, tiny_models: TinyModels) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with Engine.open(tiny_bundle, Request(context=100, nodes=6)) as engine:
        found = logprobs_of(steps_of(engine, Speculation("tiny-drafter", 4), SAMPLINGS[1]))
    tokens = torch.tensor([[*PROMPT, *(each.token for each in found)]])
    with torch.inference_mode():
        rows = AutoModelForCausalLM.from_pretrained(tiny_models.target)(tokens).logits[0, len(PROMPT) - 1 : -1]
    expected = rows.double().log_softmax(-1)
    chosen = expected.gather(1, tokens[0, len(PROMPT) :, None])[:, 0]
    np.testing.assert_allclose([each.logprob for each in found], chosen.numpy(), atol=1e-4)
    values, _ = expected.topk(TOP)
    np.testing.assert_allclose([[value for _, value in each.top] for each in found], values.numpy(), atol=1e-4)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 3000), st.integers(1, 400), st.integers(0, 1000))
def test_alternatives_are_the_largest_by_value_then_id(size: int, count: int, seed: int) -> None:
    logits = np.random.default_rng(seed).choice([-np.inf, -3.0, 0.0, 0.5, 2.0], size)
    expected = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:count]
    assert most_probable(np.array(logits, np.float32), count) == expected


def test_alternatives_of_a_large_vocabulary_are_its_largest() -> None:
    logits = np.random.default_rng(2).normal(0, 3, 151_936).astype(np.float32)
    found = token_logprob(logits, 7, 20)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    order = np.argsort(-exact, kind="stable")[:20]
    assert [token for token, _ in found.top] == order.tolist()
    np.testing.assert_allclose([found.logprob, *(value for _, value in found.top)], exact[[7, *order]], atol=1e-12)


def test_nothing_is_computed_unless_asked_for(native: Engine) -> None:
    assert logprobs_of(steps_of(native, SPECULATIONS[0], SAMPLINGS[0], logprobs=None)) == []
    assert all(each.top == () for each in logprobs_of(steps_of(native, PLAIN, SAMPLINGS[0], logprobs=0)))


def test_chunks_have_them_with_the_bytes_of_their_text(native: Engine) -> None:
    chunks = list(native.generate("Hello", max_new_tokens=20, logprobs=1, ignore_eos=True))
    found = b"".join(native.tokenizer.token_bytes(each.token) for chunk in chunks for each in chunk.logprobs)
    special = [name.encode() for name in native.tokenizer.special_tokens]
    for name in special:
        found = found.replace(name, b"")
    assert found.decode(errors="replace") == "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("count", [-1, 1.5, "2", True, 100_000], ids=repr)
def test_impossible_numbers_of_alternatives_are_refused(native: Engine, count: Any) -> None:
    with pytest.raises(PocketspecError, match=r"logprobs is .*, allowed: whole numbers from 0 to "):
        native.generate("Hello", logprobs=count)


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(LogitsError):
        token_logprob(np.array([0.0, np.nan], np.float32), 0)
