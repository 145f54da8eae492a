"""The laws of decoding on ONNX Runtime: fp32 up to rounding in the cache, int4 bit for bit at safe widths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from export.manifest import Level, read_manifest
from memory import Request, make_plan
from memory.plan import Shape
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import DraftLimit
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Drafter
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.draft_model import DraftModelDrafter
from runtime.drafters.suffix import SuffixDrafter
from runtime.models.exact_widths import SafeWidths, any_width, find_safe_widths
from runtime.models.ort_model import OrtModel, open_session
from runtime.scheduler.fixed import FixedScheduler
from tests.devices import AMPLE
from tests.runtime.decoding.test_loop import Ends
from tests.runtime.drafters.guesses import Random
from tests.runtime.tiny_graph import VOCAB, write_tiny_graph

ROWS, CAPACITY = 10, 200
PROMPT = [3, 14, 15, 92, 65, 35, 89]
SAMPLINGS = {"greedy": SamplingParams(), "sampled": SamplingParams(temperature=0.7, top_k=20, top_p=0.9, seed=11)}
sampled_or_not = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets in fp32 and int4, and a drafter that often agrees with them: the same weights in the other precision."""
    folder = tmp_path_factory.mktemp("graphs")
    for bits in (4, 32):
        write_tiny_graph(folder / f"{bits}.onnx", bits=bits)
    return folder


def _open(folder: Path, bits: int, widths: SafeWidths | None = None) -> OrtModel:
    return OrtModel(open_session(folder / f"{bits}.onnx", 1), CAPACITY, ROWS, 16, widths or any_width(ROWS))


def _drafter(folder: Path, name: str, bits: int) -> Drafter:
    if name == "random":
        return Random(VOCAB)
    if name == "suffix":
        return SuffixDrafter()
    return DraftModelDrafter(_open(folder, 36 - bits), VOCAB)


def _answer(
    target: OrtModel,
    drafter: Drafter | None,
    sampling: SamplingParams,
    turns: Sequence[Sequence[int]],
    shape: Shape = "chain",
):
    """The tokens of all turns, 30 new ones in each, and how many drafted ones were accepted."""
    context, accepted = Context(CAPACITY - ROWS, sampling), 0
    name = drafter.name if drafter else None
    for turn in turns:
        context.append(list(turn))
        scheduler = FixedScheduler(name, DraftLimit(7, 5, shape))
        for step in decode(target, context, {name: drafter}, scheduler, MatchVerifier(), Ends(30)):
            accepted += step.num_accepted
    return context.tokens.tolist(), accepted


@sampled_or_not
@pytest.mark.parametrize("name", ["chain", "tree", "random", "suffix"])
def test_in_fp32_every_step_leaves_the_cache_of_a_fresh_prefill(
    folder: Path, name: str, sampling: SamplingParams
) -> None:
    target, fresh = _open(folder, 32), _open(folder, 32)
    context = Context(CAPACITY - ROWS, sampling)
    context.append(PROMPT)
    drafter = _drafter(folder, name, 32)
    scheduler = FixedScheduler(drafter.name, DraftLimit(7, 5, "tree" if name == "tree" else "chain"))
    for step in decode(target, context, {drafter.name: drafter}, scheduler, MatchVerifier(), Ends(30)):
        fresh.cache.rollback(0)
        fresh.prefill(context.tokens[:-1])
        for kept, new in zip(target.cache.arrays, fresh.cache.arrays, strict=True):
            length = target.cache.length
            assert np.allclose(kept[:, :, :length], new[:, :, :length], rtol=0, atol=1e-5), step
    assert target.cache.length == len(context) - 1 == len(PROMPT) + 29


@sampled_or_not
@pytest.mark.parametrize("name", ["chain", "suffix"])
def test_in_int4_speculation_changes_not_a_token_at_safe_widths(
    folder: Path, name: str, sampling: SamplingParams
) -> None:
    widths = find_safe_widths(_open(folder, 4))
    if not widths.exact:
        pytest.skip("no two widths agree on this device")
    turns = [PROMPT, [5, 6, 5, 6, 5]]
    plain, _ = _answer(_open(folder, 4, widths), None, sampling, turns)
    drafter = _drafter(folder, name, 4)
    tokens, accepted = _answer(_open(folder, 4, widths), drafter, sampling, turns)
    assert tokens == plain
    if name == "chain":
        assert accepted > 10


@sampled_or_not
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_an_exported_pair_decodes_as_its_target_alone(
    tiny_bundle: Path, shape: Shape, sampling: SamplingParams
) -> None:
    manifest = read_manifest(tiny_bundle)
    plan = make_plan(manifest, AMPLE, Request(context=CAPACITY - ROWS, nodes=ROWS - 2))

    def opened(level: Level) -> OrtModel:
        planned = plan.level(level.name)
        assert planned is not None
        return OrtModel.open(tiny_bundle, level, planned, 1, plan.prefill_chunk)

    drafter = DraftModelDrafter(opened(manifest.drafters()[0]), manifest.target.shape.vocab_size)
    turns = [PROMPT, [5, 6, 5]]
    plain, _ = _answer(opened(manifest.target), None, sampling, turns)
    tokens, accepted = _answer(opened(manifest.target), drafter, sampling, turns, shape)
    assert tokens == plain
    assert accepted > 5


def test_in_int4_free_widths_and_trees_differ_at_near_ties_alone(folder: Path) -> None:
    """The margin: at the first difference, the two best logits of plain decoding are closer than kernels are."""
    gaps = []
    for start in range(8):
        prompt = [*PROMPT, start]
        plain, _ = _answer(_open(folder, 4), None, SamplingParams(), [prompt])
        tokens, _ = _answer(_open(folder, 4), _drafter(folder, "tree", 4), SamplingParams(), [prompt], "tree")
        different = [i for i, (left, right) in enumerate(zip(plain, tokens, strict=True)) if left != right]
        if different:
            target = _open(folder, 4)
            target.prefill(plain[: different[0] - 1])
            row = np.sort(target.forward(plain[different[0] - 1 : different[0]]).logits[0])
            gaps.append(float(row[-1] - row[-2]))
    assert all(gap < _kernel_noise(folder) for gap in gaps), gaps


def _kernel_noise(folder: Path) -> float:
    """The largest difference of a logit between one row at a time and several rows at once."""
    model, tokens = _open(folder, 4), np.random.default_rng(1).integers(0, VOCAB, 120).tolist()
    runs = []
    for width in (1, 8):
        model.cache.rollback(0)
        model.prefill(tokens[:16])
        starts = range(16, len(tokens) + 1, width)
        runs.append(np.concatenate([model.forward(tokens[a:b]).logits.copy() for a, b in pairwise(starts)]))
    rows = min(len(run) for run in runs)
    return float(np.abs(runs[0][:rows] - runs[1][:rows]).max())
