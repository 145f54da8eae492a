"""The laws of the native kernels over whole models: a row's logits depend on nothing but the row and what it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import read_manifest
from memory import Request, make_plan
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.kernels.backends import Kernels
from runtime.kernels.library import library_path, open_library
from runtime.kernels.selection import Chooser
from runtime.models.exact_widths import any_width
from runtime.models.ort_model import OrtModel
from runtime.speculation.request import PLAIN, Speculation
from tests.devices import AMPLE

ROWS, CAPACITY, PREFIX = 32, 256, 70
PROMPTS = ["Once upon a time", "a", "the cat sat on the mat, the cat sat on the", "0123456789" * 6]
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.8, top_k=30, top_p=0.95, seed=5)

Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    if not library_path().is_file():
        pytest.skip("the native kernels are not built")
    open_library()  # one that fails its self-test must not pass for one that is not there


def open_native(bundle: Path, threads: int) -> OrtModel:
    """The target alone, on native kernels, at whatever widths it is asked for."""
    manifest = read_manifest(bundle)
    request = Request(context=CAPACITY, nodes=ROWS - 1)
    planned = make_plan(manifest, AMPLE, request).level(manifest.target.name)
    assert planned is not None

    def make(kernels: Kernels) -> OrtModel:
        return OrtModel.open(bundle, manifest.target, planned, threads, 64, any_width(ROWS), kernels)

    return Chooser("native").open(bundle, manifest, manifest.target, make)


@pytest.fixture(scope="module")
def model(tiny_bundle_int4: Path) -> OrtModel:
    return open_native(tiny_bundle_int4, 1)


@pytest.fixture(scope="module")
def tokens(model: OrtModel) -> list[int]:
    return np.random.default_rng(3).integers(0, model.vocab_size, PREFIX + ROWS).tolist()


def one_by_one(model: OrtModel, tokens: list[int], start: int) -> Logits:
    """The logits of every row from ``start`` on, each run alone behind the ones before."""
    model.cache.rollback(0)
    model.prefill(tokens[:start])
    return np.concatenate([model.forward([token]).logits.copy() for token in tokens[start:]])


@pytest.mark.parametrize("start", [1, 15, 16, 17, PREFIX])
def test_rows_are_bit_equal_at_every_width_behind_every_prefix(model: OrtModel, tokens: list[int], start: int) -> None:
    expected = one_by_one(model, tokens[: start + ROWS], start)
    for width in range(2, ROWS + 1):
        model.cache.rollback(start)
        rows = model.forward(tokens[start : start + width]).logits
        np.testing.assert_array_equal(rows.view(np.int32), expected[:width].view(np.int32), err_msg=f"{width} rows")


def test_the_prefix_may_have_been_filled_in_any_pieces(model: OrtModel, tokens: list[int]) -> None:
    expected = one_by_one(model, tokens[: PREFIX + 1], PREFIX)
    for piece in (1, 3, 16, 31):
        model.cache.rollback(0)
        for first in range(0, PREFIX, piece):
            model.forward(tokens[first : min(first + piece, PREFIX)])
        np.testing.assert_array_equal(model.forward(tokens[PREFIX : PREFIX + 1]).logits, expected)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_rows_are_bit_equal_with_any_number_of_threads(
    tiny_bundle_int4: Path, model: OrtModel, tokens: list[int], threads: int
) -> None:
    other = open_native(tiny_bundle_int4, threads)
    for width in (1, 5, ROWS):
        logits = []
        for each in (model, other):
            each.cache.rollback(0)
            each.prefill(tokens[:PREFIX])
            logits.append(each.forward(tokens[PREFIX : PREFIX + width]).logits.copy())
        np.testing.assert_array_equal(logits[0], logits[1])


def test_a_path_through_a_tree_is_bit_equal_to_the_path_alone(model: OrtModel, tokens: list[int]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        nodes = int(generator.integers(2, ROWS))
        parents = [-1, *(int(generator.integers(0, row)) for row in range(1, nodes))]
        step = tokens[PREFIX : PREFIX + nodes]
        model.cache.rollback(0)
        model.prefill(tokens[:PREFIX])
        tree = model.forward(step, parents).logits.copy()
        path = [nodes - 1]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        model.cache.rollback(PREFIX)
        alone = model.forward([step[row] for row in path]).logits
        np.testing.assert_array_equal(tree[path], alone)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("shape", ["chain", "tree"])
@pytest.mark.parametrize("drafter", ["suffix", "tiny-drafter"])
def test_answers_equal_plain_decoding(
    tiny_bundle_int4: Path, drafter: str, shape: str, sampling: SamplingParams
) -> None:
    with Engine.open(tiny_bundle_int4, Request(context=CAPACITY, shape="tree", nodes=12), kernels="native") as engine:
        assert engine.target.kernels.name == "native"
        assert engine.target.widths.exact
        assert engine.target.widths.pad(1) == 1  # one row is as good as many: plain decoding pays for no padding
        drafted = accepted = 0
        for prompt in PROMPTS:
            texts = []
            for speculation in (PLAIN, Speculation(drafter, 7, shape)):  # type: ignore[arg-type]
                chunks = list(
                    engine.generate(prompt, sampling=sampling, max_new_tokens=60, raw=True, speculation=speculation)
                )
                texts.append([token for chunk in chunks for token in chunk.step.tokens])
                drafted += chunks[-1].stats.drafted
                accepted += chunks[-1].stats.accepted
            assert texts[0] == texts[1], prompt
        # A model that agrees now and then; repetition need not be right about random weights.
        assert (accepted if drafter == "tiny-drafter" else drafted) > 0
