"""States of layers: whatever was accepted and rejected, they equal those of a fresh run over the text that stayed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import pytest

from export.manifest import ConvolutionShape, RecurrenceShape
from runtime.decoding.loop import fill_cache
from runtime.kernels.library import KernelsError, open_library
from runtime.kernels.selftest import state_reference as reference
from runtime.models.exact_widths import any_width, find_safe_widths
from runtime.models.layer_states import LayerStates, StateSizes
from runtime.models.ort_model import OrtModel, open_session
from tests.runtime.models.hybrid_graph import (
    CHANNELS,
    HEADS,
    KEY_HEADS,
    SIZE,
    UPDATE,
    VALUES,
    VOCAB,
    WIDTH,
    tables_of,
    write_hybrid_graph,
)
from tests.runtime.models.native_hybrids import open_native

ROWS, CAPACITY = 6, 160


@dataclass(frozen=True)
class Graph:
    """A graph of either rule, run by ``kernels``."""

    folder: Path
    delta: bool
    kernels: str

    def open(self, threads: int = 1) -> onnxruntime.InferenceSession:
        """A session."""
        if self.kernels == "native":
            return open_native(self.folder, self.delta, threads)
        return open_session(write_hybrid_graph(self.folder / "model.onnx", self.delta), threads)


@pytest.fixture(scope="module", params=list(product(["portable", "native"], [True, False])), ids=str)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Either rule, with either kernels."""
    kernels, delta = request.param
    if kernels == "native":
        try:
            open_library()
        except KernelsError as error:
            pytest.skip(str(error))
    return Graph(tmp_path_factory.mktemp("hybrid"), delta, kernels)


def open_model(graph: Graph, deep: bool = False, held: int = ROWS, chunk: int = 16, threads: int = 1) -> OrtModel:
    sizes = StateSizes(WIDTH, held, snapshots=2, deep=deep)
    return OrtModel(graph.open(threads), CAPACITY, ROWS, chunk, any_width(ROWS), states=sizes)


def next_logits(model: OrtModel, tokens: list[int]) -> np.ndarray:
    """The logits of a row after ``tokens``, and of two more after it."""
    fill_cache(model, tokens)
    return model.forward([1, 2, 3]).logits.copy()


def fresh_logits(graph: Graph, tokens: list[int]) -> np.ndarray:
    """The same, of a model that read ``tokens`` one by one."""
    model = open_model(graph)
    for token in tokens:
        model.forward([token])
    return next_logits(model, tokens)


@pytest.mark.parametrize("deep", [False, True], ids=["last step", "several steps"])
def test_after_any_script_of_rollbacks_states_equal_a_fresh_run(graph: Graph, deep: bool) -> None:
    random, model = Random(1), open_model(graph, deep, held=4 * ROWS if deep else ROWS)
    tokens: list[int] = []
    for _ in range(12):
        fresh = random.choices(range(VOCAB), k=random.choice([1, 2, 5, 40]))
        if len(fresh) > ROWS:
            fill_cache(model, tokens := [*tokens[:50], *fresh])
            continue
        fill_cache(model, tokens)
        for _ in range(random.randint(1, 3) if deep else 1):
            model.forward(fresh)
        kept = random.randint(0, model.cache.length - len(tokens))
        tokens = model.cache.tokens[: len(tokens) + kept].tolist()
        model.cache.rollback(len(tokens))
        assert model.cache.length == len(tokens), "rows of the last step are forgotten exactly"
    np.testing.assert_array_equal(next_logits(model, tokens), fresh_logits(graph, tokens))


def test_every_number_of_rows_gives_the_same_bits(graph: Graph) -> None:
    assert find_safe_widths(open_model(graph)).widths == tuple(range(1, ROWS + 1))


def test_a_prompt_is_returned_to_without_reading_it_again(graph: Graph) -> None:
    model, prompt = open_model(graph), Random(2).choices(range(VOCAB), k=70)
    fill_cache(model, prompt)
    for _ in range(9):
        model.forward([4, 5, 6])
    model.cache.rollback(len(prompt))
    assert model.cache.length == len(prompt)
    np.testing.assert_array_equal(next_logits(model, prompt), fresh_logits(graph, prompt))


def test_a_shorter_text_than_any_copy_is_read_again(graph: Graph) -> None:
    model, prompt = open_model(graph), Random(3).choices(range(VOCAB), k=60)
    fill_cache(model, prompt)
    model.cache.rollback(20)
    assert model.cache.length == 0
    np.testing.assert_array_equal(next_logits(model, prompt[:20]), fresh_logits(graph, prompt[:20]))


def test_a_copy_ends_where_other_tokens_follow(graph: Graph) -> None:
    model, prompt = open_model(graph), Random(4).choices(range(VOCAB), k=60)
    fill_cache(model, prompt)
    other = [*prompt[:58], 7, *prompt[:30]]
    fill_cache(model, other)
    for _ in range(9):
        model.forward([4, 5, 6])
    again = [*prompt[:58], 7, 7]
    np.testing.assert_array_equal(next_logits(model, again), fresh_logits(graph, again))


def test_more_rows_to_hold_keep_what_is_held(graph: Graph) -> None:
    model, prompt = open_model(graph), Random(5).choices(range(VOCAB), k=60)
    fill_cache(model, prompt)
    model.forward([1, 2])
    model.resize(CAPACITY, 2 * ROWS, 16)
    model.cache.rollback(61)
    assert model.cache.length == 61
    np.testing.assert_array_equal(next_logits(model, [*prompt, 1]), fresh_logits(graph, [*prompt, 1]))


def test_a_forward_that_failed_leaves_a_copy_or_nothing(graph: Graph) -> None:
    model, prompt = open_model(graph), Random(6).choices(range(VOCAB), k=40)
    fill_cache(model, prompt)
    model.forward([1])
    states = model.cache.states
    assert states is not None
    states.lose()
    model.cache.rollback(41)
    assert model.cache.length == 40
    np.testing.assert_array_equal(next_logits(model, [*prompt, 1]), fresh_logits(graph, [*prompt, 1]))


def test_what_is_saved_continues_elsewhere(graph: Graph) -> None:
    model, prompt = open_model(graph), Random(7).choices(range(VOCAB), k=45)
    fill_cache(model, prompt)
    model.forward([1, 2, 3, 4])
    model.cache.rollback(47)
    other = open_model(graph, held=ROWS + 3)
    states, taken = model.cache.states, other.cache.states
    assert states is not None
    assert taken is not None
    parts = states.save(47)
    assert [part.shape for part in parts] == taken.saved_shapes(states.behind(47))
    taken.load(parts, 47, states.behind(47))
    other.cache.append(model.cache.tokens)
    text = [*prompt, 1, 2]
    np.testing.assert_array_equal(next_logits(other, text), fresh_logits(graph, text))


def test_the_plan_counts_every_byte() -> None:
    sizes = StateSizes(WIDTH, ROWS, snapshots=2)
    inputs = [
        ("past_conv.0", (1, 0, CHANNELS)),
        ("past_recurrent.0", (1, HEADS, SIZE, VALUES)),
        ("past_updates.0", (1, 0, UPDATE)),
    ]
    states = LayerStates(inputs, sizes)
    shapes = ConvolutionShape(1, CHANNELS, WIDTH), RecurrenceShape(1, HEADS, 2, SIZE, VALUES)
    counted = sum(shape.state_bytes(ROWS) for shape in shapes)
    assert states.nbytes == counted
    states.advance(0, 2)
    states.snapshot(2)
    assert states.nbytes == 2 * counted


@cache
def specified_logits(text: tuple[int, ...], delta: bool) -> np.ndarray:
    """The logits of ``text`` by the written arithmetic."""
    tables, ids, keys = tables_of(delta), np.array(text), KEY_HEADS * SIZE
    y = reference.convolve(tables["table"][ids], tables["weight"], tables["bias"], silu=True)
    query, key, value = np.split(y, [keys, 2 * keys], 1)
    heads = (query.reshape(-1, KEY_HEADS, SIZE), key.reshape(-1, KEY_HEADS, SIZE), value.reshape(-1, HEADS, VALUES))
    rows = (*heads, tables["decays"][ids], tables["rates"][ids] if delta else None)
    base, updates = np.zeros((HEADS, SIZE, VALUES), np.float32), np.zeros((0, UPDATE), np.float32)
    return reference.run_rows(base, updates, len(text), rows, np.float32(0.35), 1e-6)[0].reshape(len(text), -1)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "gated"])
@pytest.mark.parametrize("instruction_set", ["", "portable", "avx2", "avxvnni", "avx512vnni", "neon_dot"])
def test_native_bits_are_those_of_the_specification(
    delta: bool, instruction_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Random(8).choices(range(VOCAB), k=28)
    if instruction_set:
        monkeypatch.setenv("POCKETSPEC_ISA", instruction_set)
    try:
        model = open_model(Graph(tmp_path, delta, "native"), threads=3)
    except (KernelsError, RuntimeError) as error:
        pytest.skip(str(error))
    fill_cache(model, text[:18])
    found = [model.forward(text[first : first + 5]).logits.copy() for first in (18, 23)]
    wanted = specified_logits(tuple(text), delta)
    np.testing.assert_array_equal(np.concatenate(found).view(np.int32), wanted[18:].view(np.int32))
