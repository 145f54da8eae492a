"""A snapshot that was put back continues bit for bit, and computes nothing again."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from memory import Request
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine, TextChunk
from runtime.sessions.errors import OtherSessionError
from runtime.sessions.snapshot import Snapshot
from runtime.speculation.request import Speculation
from runtime.turns import BusyError
from tests.runtime.sessions.rows_read import rows_read
from tests.runtime.sessions.talk import CASES, NATIVE, SAMPLED, forget, tokens_of

MORE = [
    *product([SamplingParams(), SAMPLED], [Speculation("ahead:near", 3)]),
    (SAMPLED, Speculation("near", 4, acceptance="block")),
]


def answer(engine: Engine, prompt: list[int], sampling: SamplingParams, speculation: Speculation) -> list[TextChunk]:
    answer = engine.generate(prompt, sampling=sampling, speculation=speculation, max_new_tokens=24, ignore_eos=True)
    return list(answer)


@pytest.mark.parametrize(("sampling", "speculation"), [*CASES, *MORE], ids=str)
def test_answers_go_on_as_if_nothing_had_come_between(
    stacked: Engine, sampling: SamplingParams, speculation: Speculation
) -> None:
    forget(stacked)
    first = stacked.encode("Once upon a time")
    said = [*first, *tokens_of(answer(stacked, first, sampling, speculation))]
    snapshot = stacked.snapshot()
    prompt = [*said, *stacked.encode("and then", raw=True)]
    whole = tokens_of(answer(stacked, prompt, sampling, speculation))
    answer(stacked, stacked.encode("Something else"), sampling, speculation)
    stacked.resume(snapshot)
    with rows_read(stacked.target) as read:
        resumed = answer(stacked, prompt, sampling, speculation)
    assert tokens_of(resumed) == whole
    assert resumed[-1].stats.cached_tokens == len(said) - 1
    assert read[0] == len(prompt) - len(said), "more was read than is new"


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=NATIVE), "portable"])
@pytest.mark.parametrize("kv_type", ["fp32", "fp16", "int8", "int4"])
def test_rows_of_every_type_come_back_bit_for_bit(tiny_bundle_int4: Path, kv_type: str, kernels: str) -> None:
    request = Request(threads=1, kv_type=kv_type, nodes=4)
    with Engine.open(tiny_bundle_int4, request, kernels=kernels) as engine:  # type: ignore[arg-type]
        list(engine.generate("Tell me", max_new_tokens=12, ignore_eos=True))
        before = engine.snapshot()
        assert before.levels[engine.manifest.target.name].arrays[0].shape[1] == len(before.tokens) - 1
        list(engine.generate("Another", max_new_tokens=12, ignore_eos=True))
        engine.resume(before)
        check_same(before, engine.snapshot())


def check_same(left: Snapshot, right: Snapshot) -> None:
    assert left.tokens.tolist() == right.tokens.tolist()
    assert left.left_out == right.left_out
    assert left.levels.keys() == right.levels.keys()
    for name, rows in left.levels.items():
        assert rows.tokens.tolist() == right.levels[name].tokens.tolist()
        for ours, theirs in zip(rows.arrays, right.levels[name].arrays, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours.view(np.uint8), theirs.view(np.uint8))


def test_a_snapshot_is_a_copy_and_counts_its_bytes(stacked: Engine) -> None:
    list(stacked.generate("Once", max_new_tokens=8, ignore_eos=True))
    snapshot = stacked.snapshot()
    target = snapshot.levels[stacked.manifest.target.name]
    row = sum(array.nbytes for array in target.arrays) // len(target.tokens)
    cache = stacked.target.cache
    assert row == cache.nbytes // cache.rows
    copies = [array.copy() for array in target.arrays]
    list(stacked.generate("Something else entirely", max_new_tokens=8, ignore_eos=True))
    for kept, array in zip(copies, target.arrays, strict=True):
        np.testing.assert_array_equal(kept, array)
    assert snapshot.nbytes == snapshot.tokens.nbytes + sum(level.nbytes for level in snapshot.levels.values())


def test_the_place_in_a_conversation_is_kept(stacked: Engine) -> None:
    tokens = stacked.encode("Once upon a time")
    list(stacked.generate(tokens, max_new_tokens=4, left_out=100))
    snapshot = stacked.snapshot()
    list(stacked.generate(tokens, max_new_tokens=4))
    stacked.resume(snapshot)
    assert stacked.snapshot().left_out == snapshot.left_out == 100


def test_a_drafter_that_is_not_open_reads_again(stacked: Engine, stacked_bundle: Path) -> None:
    prompt = stacked.encode("Once upon a time")
    answer(stacked, prompt, SamplingParams(), Speculation("near", 4))
    snapshot = stacked.snapshot()
    with Engine.open(stacked_bundle, Request(threads=1, nodes=0, drafters=())) as other:
        assert not other.drafters
        other.resume(snapshot)
        assert other.target.cache.tokens.tolist() == snapshot.tokens[:-1].tolist()


def test_what_the_target_cannot_hold_is_refused_and_changes_nothing(stacked: Engine, random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, context=64, nodes=2)) as small:
        list(small.generate("Short", max_new_tokens=4))
        before = small.snapshot()
        list(stacked.generate("Once upon a time " * 6, max_new_tokens=4))
        with pytest.raises(OtherSessionError, match="rows, and there is room for"):
            small.resume(stacked.snapshot())
        other = replace(before.levels["tiny"].identity, model="another")
        levels = {"tiny": replace(before.levels["tiny"], identity=other)}
        with pytest.raises(OtherSessionError, match="of another model"):
            small.resume(replace(before, levels=levels))
        check_same(before, small.snapshot())


def test_an_answer_of_another_thread_is_not_disturbed(stacked: Engine) -> None:
    snapshot = stacked.snapshot()
    running = stacked.generate("Once upon a time", max_new_tokens=30, ignore_eos=True)
    next(running)
    errors: list[BaseException] = []

    def attempt() -> None:
        for action in (stacked.snapshot, lambda: stacked.resume(snapshot)):
            try:
                action()
            except BusyError as error:
                errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(errors) == 2
    assert len(tokens_of(list(running))) > 20
