"""A prediction head reads the right hidden row beside every token, whatever went by, and text stays the target's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from memory import Request
from memory.plan import Shape
from runtime.decoding.draft import DraftLimit, DrawKind, chain_limit
from runtime.decoding.protocols import HiddenInput
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.prediction_head import HeadReader, PredictionHeadDrafter
from runtime.engine import Engine
from runtime.errors import PocketspecError
from runtime.speculation.request import PLAIN, Speculation
from tests.made_once import made_once
from tests.runtime.drafters.heads import WIDTH, MadeUpTarget, head_and_module, hidden_row
from tests.runtime.levels import context_of

COLUMNS = np.arange(WIDTH)
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.9, seed=7)
TEXT = [5, 17, 3, 99, 5, 64, 200, 31, 8]


@pytest.fixture(scope="module")
def made(lowered_once: Any) -> tuple[Any, Any]:
    """The head and its torch module."""
    return head_and_module(lowered_once)


@pytest.fixture
def head(made: tuple[Any, Any]) -> Any:
    """The head with an empty cache."""
    made[0].cache.rollback(0)
    return made[0]


def target_of(tokens: list[int], **sizes: int) -> MadeUpTarget:
    target = MadeUpTarget(**sizes)
    target.run(tokens)
    return target


def expected_draft(module: Any, text: list[int], count: int) -> list[int]:
    """What the torch module drafts: row i has token i + 1 and the hidden row at i, then rows of its own follow."""
    import torch

    features = np.array([hidden_row(text[: place + 1]) for place in range(len(text) - 1)])
    tokens, own = text[1:], torch.zeros(1, 0, WIDTH)
    while len(tokens) < len(text) - 1 + count:
        with torch.no_grad():
            out = module(torch.tensor([tokens]), torch.from_numpy(features)[None], own, use_cache=False)
        tokens = [*tokens, int(out.logits[0, -1].argmax())]
        own = torch.cat((own, out.hidden[:, -1:]), 1)
    return tokens[len(text) - 1 :]


def test_drafts_are_those_of_the_module(head: Any, made: tuple[Any, Any]) -> None:
    target = target_of(TEXT[:-1])
    drafter = PredictionHeadDrafter(HeadReader(head, target, COLUMNS), 264)
    draft = drafter.propose(context_of(TEXT, GREEDY), chain_limit(4))
    assert (list(draft.tokens), draft.is_chain, draft.rows_read) == (expected_draft(made[1], TEXT, 4), True, 7)
    # then two of its tokens are accepted, and another one follows
    target.run([TEXT[-1], *draft.tokens[:2]])
    text = [*TEXT, *draft.tokens[:2], 77]
    draft = drafter.propose(context_of(text, GREEDY), chain_limit(3))
    assert (list(draft.tokens), draft.rows_read) == (expected_draft(made[1], text, 3), 2)


def test_the_nodes_of_a_tree_have_the_modules_chances(head: Any, made: tuple[Any, Any]) -> None:
    """Every node of every branch is read with the hidden row of its own parent."""
    drafter = PredictionHeadDrafter(HeadReader(head, target_of(TEXT[:-1]), COLUMNS), 264)
    draft = drafter.propose(context_of(TEXT, GREEDY), DraftLimit(8, 4, "tree"))
    assert (len(draft), head.cache.tokens.tolist()) == (8, TEXT[1:])
    assert len(set(draft.parents)) < len(draft)  # it branches
    paths: dict[int, list[int]] = {-1: []}
    for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
        paths[node] = [*paths[parent], token]
        assert draft.chances[node] == pytest.approx(_chance(made[1], TEXT, paths[node]), rel=1e-3)


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_its_calibrated_chances_say_how_much_it_drafts(head: Any, made: tuple[Any, Any], shape: Shape) -> None:
    drafter = PredictionHeadDrafter(HeadReader(head, target_of(TEXT[:-1]), COLUMNS), 264)
    draft = drafter.propose(context_of(TEXT, GREEDY), DraftLimit(4, 4, shape, floor=0.02))
    assert draft.chances[0] == pytest.approx(_chance(made[1], TEXT, [draft.tokens[0]]), rel=1e-3)
    drafter.calibration = lambda raw: raw / 20
    assert len(drafter.propose(context_of(TEXT, GREEDY), DraftLimit(4, 4, shape, floor=0.02))) < len(draft)


def _chance(module: Any, text: list[int], path: list[int]) -> float:
    """The module's chance of the last token of ``path``."""
    import torch

    features = torch.from_numpy(np.array([[hidden_row(text[: place + 1]) for place in range(len(text) - 1)]]))
    own = torch.zeros(1, 0, WIDTH)
    with torch.no_grad():
        for length in range(len(path)):
            out = module(torch.tensor([[*text[1:], *path[:length]]]), features, own, use_cache=False)
            own = torch.cat((own, out.hidden[:, -1:]), 1)
    return float(out.logits[0, -1].softmax(-1)[path[-1]])


def test_only_one_row_moves_with_a_hidden_row(head: Any) -> None:
    """The trap of PARD-2: a head that is off by one is nearly as good on some checkpoints."""
    target = target_of(TEXT)
    reader = HeadReader(head, target, COLUMNS)
    reader.read(np.array([*TEXT, 1], np.int32))
    before = [array.copy() for array in head.cache.arrays]
    head.cache.rollback(0)
    assert target.hidden is not None
    target.hidden._ring[4] += 1
    reader.read(np.array([*TEXT, 1], np.int32))
    moved = [np.abs(old - new).max((0, 1, 3)) > 0 for old, new in zip(before, head.cache.arrays, strict=True)]
    assert [np.flatnonzero(rows[: len(TEXT)]).tolist() for rows in moved] == [[4], [4]]


def test_a_text_may_begin_with_its_first_token_beside_zeros(head: Any) -> None:
    """As PARD-2 reads it, with masks behind, each beside the row of the last token."""
    reader = HeadReader(head, target_of(TEXT[:-1]), COLUMNS, first=0)
    rows = np.array([np.zeros(WIDTH), *(hidden_row(TEXT[:place]) for place in range(1, len(TEXT)))], np.float32)
    output, rows_read = reader.read(np.array(TEXT, np.int32), [3, 3]) or (None, 0)
    assert (rows_read, head.cache.tokens.tolist()) == (8, TEXT)
    assert output is not None
    found = output.logits.copy()
    head.cache.rollback(0)
    head.prefill(TEXT[:-1], HiddenInput(rows[:-1]))
    expected = head.forward([TEXT[-1], 3, 3], None, 0, HiddenInput(rows[[-1, -1, -1]])).logits
    np.testing.assert_array_equal(found, expected)


def test_drawn_drafts_carry_their_distributions(head: Any) -> None:
    drafter = PredictionHeadDrafter(HeadReader(head, target_of(TEXT[:-1]), COLUMNS), 264, drawn=True)
    draft = drafter.propose(context_of(TEXT, SAMPLED), chain_limit(3))
    assert (draft.kind, len(draft.probs)) == (DrawKind.INDEPENDENT, 3)
    draft = drafter.propose(context_of(TEXT, SAMPLED), DraftLimit(6, 3, "tree"))
    assert (draft.kind, len(draft), len(draft.probs)) == (DrawKind.WITHOUT_REPLACEMENT, 6, 5)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_went_by_the_cache_is_that_of_the_text(head: Any, seed: int) -> None:
    """Prompts longer than the ring, steps without the head, rejected drafts, other texts: bit for bit a fresh run."""
    random = Random(seed)
    target = MadeUpTarget(kept=24)
    reader = HeadReader(head, target, COLUMNS)
    drafter, text = PredictionHeadDrafter(reader, 264), [1]
    for _ in range(12):
        kind = random.choice(["prompt", "plain", "draft", "tree", "reject", "back"])
        if kind == "prompt":
            fresh = [random.randrange(264) for _ in range(random.randrange(10))]
            for start in range(0, len(fresh), 5):
                target.run([text[-1], *fresh[:-1]][start : start + 5])
            text += fresh
        elif kind == "plain":
            for _ in range(random.randrange(1, 4)):
                target.run(text[-1:])
                text.append(random.randrange(264))
        elif kind == "back" and len(text) > 12:
            text = text[: random.randrange(len(text) - 8, len(text))]
            target.rollback(len(text) - 1)
        elif len(text) > 1:
            limit = DraftLimit(6, 3, "tree") if kind == "tree" else chain_limit(4)
            draft = drafter.propose(context_of(text, GREEDY, 1000), limit)
            tokens = list(draft.tokens[: draft.main_path])
            target.run([text[-1], *tokens])
            kept = 0 if kind == "reject" else random.randrange(len(tokens) + 1)
            target.rollback(len(text) + kept)
            text += [*tokens[:kept], random.randrange(264)]
        if len(text) > 60:
            break
    target.run(text[-1:])
    text.append(9)
    reader.read(np.array(text, np.int32))
    held = [array[:, :, : head.cache.length].copy() for array in head.cache.arrays]
    assert head.cache.tokens.tolist() == text[1:]
    head.cache.rollback(0)
    HeadReader(head, target_of(text[:-1], kept=100), COLUMNS).read(np.array(text, np.int32))
    for old, new in zip(held, head.cache.arrays, strict=True):
        np.testing.assert_array_equal(old, new[:, :, : head.cache.length])


def test_nothing_is_lost_in_a_long_prompt_or_while_others_draft(head: Any) -> None:
    text, target = [7 * place % 264 for place in range(60)], MadeUpTarget(kept=24)
    reader = HeadReader(head, target, COLUMNS)
    for start in range(0, 30, 10):
        target.run(text[start : start + 10])
    for token in text[30:59]:
        target.run([token])
    _, rows_read = reader.read(np.array(text, np.int32)) or (None, 60)
    assert head.cache.tokens.tolist() == text[1:]
    assert rows_read < 24


def test_without_hidden_rows_nothing_is_drafted_until_there_are_some(head: Any) -> None:
    target = target_of(TEXT)
    assert target.hidden is not None
    target.hidden.claim(len(TEXT))  # say a session was restored
    drafter = PredictionHeadDrafter(HeadReader(head, target, COLUMNS), 264)
    assert not drafter.propose(context_of([*TEXT, 1], GREEDY), chain_limit(4))
    target.run([1])
    assert len(drafter.propose(context_of([*TEXT, 1, 2], GREEDY), chain_limit(4))) == 4


def test_a_text_longer_than_the_cache_is_read_from_its_second_half_on(head: Any) -> None:
    text = [place % 200 for place in range(150)]
    target = MadeUpTarget(kept=40)
    drafter = PredictionHeadDrafter(HeadReader(head, target, COLUMNS), 264)
    for start in range(0, 149, 10):
        target.run(text[start : start + 10][: 149 - start])
    for _ in range(100):
        tokens = drafter.propose(context_of(text, GREEDY, 1000), chain_limit(4)).tokens
        assert len(tokens) == 4
        target.run(text[-1:])
        text.append(tokens[0])
    assert head.cache.length <= head.cache.capacity - head.max_rows


@pytest.fixture(scope="module")
def bundle(lowered_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int4 hybrid with the head that its checkpoint comes with."""

    def make(folder: Path) -> None:
        from export.bundle import export_bundle
        from export.request import ExportRequest
        from tests.export.heads.tiny_mtp import write_mtp_checkpoint

        checkpoint = write_mtp_checkpoint(folder.with_name("mtp-checkpoint") / "tiny-mtp")
        export_bundle(ExportRequest(str(checkpoint), folder, drafters=("own",)))

    known = made_once(tmp_path_factory, "tiny-mtp-int4", make)
    return Path(shutil.copytree(known, tmp_path_factory.mktemp("mtp") / "bundle"))


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    """The bundle, open, with short chunks of prompts, so that prompts are longer than what is kept."""
    with Engine.open(bundle, Request(threads=1, nodes=6, prefill_chunk=16)) as opened:
        yield opened


def tokens_of(engine: Engine, prompt: str, **settings: Any) -> list[int]:
    chunks = engine.generate(prompt, max_new_tokens=24, ignore_eos=True, **settings)
    return [token for chunk in chunks for token in chunk.step.tokens]


@pytest.mark.parametrize("speculation", [Speculation("own", 5), Speculation("suffix+own", 3), Speculation()], ids=str)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_text_is_the_targets(engine: Engine, speculation: Speculation, sampling: SamplingParams) -> None:
    for prompt in ("Hi", "Once upon a time, and long ago. " * 8):
        plain = tokens_of(engine, prompt, sampling=sampling, speculation=PLAIN)
        assert tokens_of(engine, prompt, sampling=sampling, speculation=speculation) == plain


@pytest.mark.parametrize("rule", ["block", "recursive"])
def test_rules_that_need_distributions_take_its_drafts(engine: Engine, rule: str) -> None:
    speculation = Speculation("own", 4, acceptance=rule)
    *_, last = engine.generate("Hi", max_new_tokens=24, ignore_eos=True, sampling=SAMPLED, speculation=speculation)
    assert last.stats.accepted > 5


def test_the_head_is_accepted_as_often_as_its_agreement_says(engine: Engine) -> None:
    level = engine.manifest.level("own")
    *_, last = engine.generate("Hi", max_new_tokens=100, ignore_eos=True, speculation=Speculation("own", 1))
    assert level.agreement is not None
    assert level.agreement > 0.5
    assert abs(last.stats.accepted / last.stats.drafted - level.agreement) < 0.25


def test_it_is_forecast_beside_the_target_alone(engine: Engine) -> None:
    list(engine.generate("Hi", max_new_tokens=4, ignore_eos=True))
    methods = [method.name for method in engine.decoding_methods()]
    assert [name for name in methods if "own" in name] == ["own-chain", "own-tree"]


def test_what_the_target_has_not_seen_it_cannot_draft(engine: Engine) -> None:
    with pytest.raises(PocketspecError, match="own reads hidden rows of the target, which are not there ahead of it"):
        tokens_of(engine, "Hi", speculation=Speculation("ahead:own", 3))


def test_hidden_rows_are_in_the_plan(engine: Engine, bundle: Path) -> None:
    for planned, model in zip(engine.plan.levels, (engine.target, engine.drafters["own"]), strict=True):
        held = sum(array.nbytes for array in model.arrays["hidden rows"])
        assert planned.footprint.part("hidden rows").anonymous == held > 0
    with Engine.open(bundle, Request(threads=1, drafters=())) as plain:
        assert plain.target.cache.hidden is None
        assert "hidden rows" not in plain.target.arrays
        assert not plain.plan.target.footprint.part("hidden rows").anonymous
