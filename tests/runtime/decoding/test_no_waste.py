"""A step in steady state allocates nothing that grows with the vocabulary or the context, and keeps nothing.

What remains are Python's own small objects: the step itself, the tokens of a draft, views of arrays. Memory that
ONNX Runtime takes inside a forward is not traced; that it comes to rest is the law of the last test.
"""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.plan import Shape
from runtime.decoding.acceptance.block import BlockVerifier
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, Step, chain_limit
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Drafter, Verifier
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.hierarchy import HierarchyDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.models.ort_model import OrtModel, open_session
from runtime.scheduler.fixed import FixedScheduler
from tests.places import ROOT
from tests.runtime import tiny_graph
from tests.runtime.tiny_graph import write_tiny_graph

VOCAB = 128_000
CONTEXT, ROWS = 400, 16
# Of the small objects of one step, all at once; a row of logits takes 512,000, a mask over the vocabulary 128,000. Sums
# in float64 of float32 go through 65,536 bytes of NumPy's own, whatever their length, and the cut of top_k is estimated
# from every 37th logit.
STEP_BYTES = {"greedy": 30_000, "sampled": 100_000}
# What a token leaves in the list of those generated, with what Python keeps for lists that grow.
TOKEN_BYTES = 64
INNER = {"chain": chain_limit(2), "tree": DraftLimit(4, 2, "tree")}
SAMPLING = {"greedy": SamplingParams(), "sampled": SamplingParams(temperature=1.0, top_k=50, top_p=0.9, seed=1)}


class Widest:
    """Drafts as many nodes as are allowed, two behind every node; as good as always wrong."""

    name = "widest"

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        return Draft(tuple(range(limit.nodes)), tuple((node - 1) // 2 for node in range(limit.nodes)))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose vocabulary is not tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_graph, "VOCAB", VOCAB)
        return write_tiny_graph(tmp_path_factory.mktemp("wide") / "model.onnx", layers=1)


def open_model(graph: Path) -> OrtModel:
    return OrtModel(open_session(graph, 1), CONTEXT + ROWS, ROWS, 32)


def endless(
    target: OrtModel,
    drafter: object,
    sampling: SamplingParams,
    shape: Shape = "chain",
    inner: DraftLimit | None = None,
    rule: Verifier | None = None,
) -> Iterator[Step]:
    """Steps one conversation after another, each until its context is full."""
    name = getattr(drafter, "name", None)
    limit = DraftLimit(3, 3, shape) if inner is None else chain_limit(1 + inner.depth, inner)
    scheduler = FixedScheduler(name, limit) if name else FixedScheduler()
    context = Context(CONTEXT, sampling)
    for number in itertools.count():
        context.truncate(0)
        context.append([1, 2, number % 50])
        verifier = rule or (MatchVerifier() if sampling.temperature else GreedyVerifier())
        yield from decode(target, context, {name: drafter}, scheduler, verifier, StopRule())


def wide_hierarchy(graph: Path) -> HierarchyDrafter:
    """An intermediate that has all of its drafter's guesses to reject."""
    return HierarchyDrafter(Widest(), open_model(graph), 96)


def traced() -> int:
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize(
    ("kind", "sampling"),
    [
        ("plain", "greedy"),
        ("widest", "sampled"),
        ("suffix", "greedy"),
        ("chain", "greedy"),
        ("tree", "sampled"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(("plain", "widest", "suffix", "chain", "tree"), SAMPLING)
        ),
    ],
)
def test_a_step_allocates_little_and_keeps_nothing(graph: Path, kind: str, sampling: str) -> None:
    drafter = {
        "plain": lambda: None,
        "widest": Widest,
        "suffix": SuffixDrafter,
        "chain": lambda: DraftModelDrafter(open_model(graph), VOCAB),
        "tree": lambda: DraftModelDrafter(open_model(graph), VOCAB),
    }[kind]()
    steps = endless(open_model(graph), drafter, SAMPLING[sampling], "tree" if kind == "tree" else "chain")
    most, kept = measured(steps)
    assert most < STEP_BYTES[sampling]
    assert kept < STEP_BYTES[sampling]


@pytest.mark.parametrize(
    ("sampling", "inner", "drawn"),
    [
        ("sampled", INNER["tree"], True),
        ("greedy", INNER["tree"], False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(SAMPLING, INNER.values(), (False, True))
        ),
    ],
    ids=str,
)
def test_nor_does_a_step_of_four_levels(graph: Path, inner: DraftLimit, sampling: str, drawn: bool) -> None:
    drafter: Drafter = DraftModelDrafter(open_model(graph), VOCAB, drawn=drawn)
    for name in ("lower", "upper"):
        drafter = HierarchyDrafter(drafter, open_model(graph), VOCAB, name, drawn)
    limit, rule = chain_limit(3, inner), BlockVerifier() if drawn and SAMPLING[sampling].temperature else None
    most, kept = measured(endless(open_model(graph), drafter, SAMPLING[sampling], "chain", limit, rule))
    assert most < STEP_BYTES[sampling] or rule  # rules that use distributions compute with them
    assert kept < STEP_BYTES[sampling]


def measured(steps: Iterator[Step]) -> tuple[int, int]:
    """The most bytes that one of 15 steps allocates, and what all of them leave behind beside their tokens."""
    for _ in itertools.islice(steps, 20):
        pass
    tracemalloc.start()
    try:
        gc.collect()
        tokens, most, start = 0, 0, traced()
        for _ in range(15):
            before = traced()
            tracemalloc.reset_peak()
            tokens += len(next(steps).tokens)
            most = max(most, tracemalloc.get_traced_memory()[1] - before)
        gc.collect()  # also empties the lists in which Python keeps small objects that were freed
        kept = traced() - start
    finally:
        tracemalloc.stop()
    return most, kept - tokens * TOKEN_BYTES


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("hierarchy", 2500), *(pytest.param(kind, 10_000, marks=pytest.mark.slow) for kind in ("widest", "hierarchy"))],
)
def test_thousands_of_steps_take_no_more_memory_than_five_hundred(tmp_path: Path, kind: str, steps: int) -> None:
    """In a process of its own, with drafts that are as wide as they may be, and always wrong at the lowest level."""
    write_tiny_graph(tmp_path / "model.onnx", layers=1)
    done = subprocess.run(
        [sys.executable, "-c", _LONG_RUN, str(tmp_path / "model.onnx"), kind, str(steps)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    early, late = (int(count) for count in done.stdout.split())
    if not early:
        pytest.skip("this system does not tell anonymous from file-backed memory")
    assert late - early < 1 << 20


# Half a mebibyte is what the system's count of resident pages is off by.
_LONG_RUN = """
import itertools, sys
from pathlib import Path
from memory.meter import read_memory
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.draft import DraftLimit
from tests.runtime.decoding.test_no_waste import Widest, endless, open_model, wide_hierarchy

def anonymous():
    memory = read_memory()
    return memory.anonymous_bytes if memory else 0

path, kind, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if kind == "widest":
    steps = endless(open_model(path), Widest(), SamplingParams())
else:
    inner = DraftLimit(3, 2, "tree")
    steps = endless(open_model(path), wide_hierarchy(path), SamplingParams(), "chain", inner)
for _ in itertools.islice(steps, 500):
    pass
early = anonymous()
for _ in itertools.islice(steps, count - 500):
    pass
print(early, anonymous())
"""
