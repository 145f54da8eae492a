"""``--draft-table``: what follows what in a text is a drafter; from counting to text."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from export.bundle import export_bundle
from export.manifest import DRAFT_TABLE_NAME, Manifest, ManifestError, PocketspecError, read_manifest
from export.request import ExportRequest, RequestError, make_jobs
from export.sources.draft_table import count_table
from export.sources.texts import TextError
from memory.choices import Request
from memory.footprint import DRAFT_TABLE
from runtime import Engine
from runtime.bundle.draft_table import DraftTable, open_draft_table
from runtime.decoding.context import Context
from runtime.decoding.draft import DraftLimit
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.suffix import Occurrence
from runtime.drafters.table import TableDrafter
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import TinyModels

pytestmark = pytest.mark.usefixtures("lowered_once")

TEXT = "abcabdabcabc abd. " * 4 + "xyz"
WORDS = st.text("abc", min_size=2, max_size=60)


@pytest.fixture(scope="module")
def bundle(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    (folder / "text.txt").write_text(TEXT)
    request = ExportRequest(str(tiny_models.target), folder / "bundle", drafters=(), table_texts=(folder / "text.txt",))
    return export_bundle(request)


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine.open(bundle, Request(context=128, threads=1)) as engine:
        yield engine


@pytest.fixture(scope="module")
def table(bundle: Path, manifest: Manifest) -> DraftTable:
    found = open_draft_table(bundle, manifest)
    assert found is not None
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_a_table_has_what_came_twice(words: str, tiny_models: TinyModels, manifest: Manifest, tmp_path: Path) -> None:
    text, path, folder = tmp_path / "t.txt", tmp_path / DRAFT_TABLE_NAME, tiny_models.target
    text.write_text(words)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(words, add_special_tokens=False).ids
    pairs = Counter(pairwise(tokens))
    if max(pairs.values()) < 2:
        with pytest.raises(TextError, match="nothing in it comes twice"):
            count_table([text], folder, manifest.target.shape.vocab_size)
        return
    path.write_bytes(count_table([text], folder, manifest.target.shape.vocab_size))
    table = DraftTable(path, manifest)
    for length in (1, 2, 3):
        runs = [tuple(tokens[place : place + length + 1]) for place in range(len(tokens) - length)]
        followed = Counter(runs)
        for context in {run[:-1] for run in runs}:
            after = {run[-1]: count for run, count in followed.items() if run[:-1] == context}
            often = {token: count for token, count in after.items() if count > 1}
            found = table.followers(context)
            if not often:
                assert found is None
                continue
            assert found is not None
            assert dict(zip(found.tokens, found.counts, strict=True)) == often
            assert list(found.counts) == sorted(found.counts, reverse=True)
            assert (found.seen, found.distinct) == (sum(after.values()), len(after))
        assert table.followers([tokens[0]] * (length - 1) + [ord("Z")]) is None


def _context(tokens: list[int]) -> Context:
    context = Context(256, SamplingParams())
    context.append(tokens)
    return context


def test_drafts_follow_the_table_and_repetition_goes_first(table: DraftTable, engine: Engine) -> None:
    tokens = engine.tokenizer.encode("b")
    after = engine.tokenizer.encode("bcd")[len(tokens) :]
    draft = TableDrafter(table).propose(_context(tokens), DraftLimit(8, 4, "tree"))
    roots = [token for token, parent in zip(draft.tokens, draft.parents, strict=True) if parent < 0]
    assert roots == after  # c comes after b more often than d does
    chain = TableDrafter(table).propose(_context(tokens), DraftLimit(4, 4))
    assert chain.parents == (-1, 0, 1, 2)
    assert chain.tokens[0] == after[0]

    class Said:
        """Elsewhere only d came after b."""

        def occurrences(self, tokens: object, depth: int) -> list[Occurrence]:
            return [Occurrence(16, after[1:])]

    said = TableDrafter(table, Said()).propose(_context(tokens), DraftLimit(4, 4))
    assert said.tokens[0] == after[1]


@pytest.mark.parametrize("said", ["bcdbcdb", "abababa", "xbxcxb"])
def test_chances_of_what_may_follow_are_at_most_one(said: str, table: DraftTable, engine: Engine) -> None:
    context = _context(engine.tokenizer.encode(said))
    draft = TableDrafter(table).propose(context, DraftLimit(20, 1, "tree", floor=1e-9))
    assert draft.expected is not None
    assert 0.3 < draft.expected <= 1.0


@settings(max_examples=60, deadline=None)
@given(words=st.text("abcdxyz .", max_size=20), nodes=st.integers(0, 9), depth=st.integers(0, 9))
def test_chances_are_a_distribution(words: str, nodes: int, depth: int, table: DraftTable, engine: Engine) -> None:
    context = _context(engine.tokenizer.encode("a" + words))
    draft = TableDrafter(table).propose(context, DraftLimit(nodes, depth, "tree", floor=1e-9))
    assert len(draft) <= nodes
    assert draft.expected is not None
    assert draft.expected <= min(depth, nodes) + 1e-9
    siblings = list(zip(draft.parents, draft.tokens, strict=True))
    assert len(set(siblings)) == len(siblings)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0.8, seed=4)], ids=["greedy", "sampled"]
)
def test_text_is_that_of_plain_decoding(engine: Engine, sampling: SamplingParams) -> None:
    def text(speculation: Speculation) -> tuple[list[int], set[str]]:
        steps = list(
            engine.steps(
                engine.encode("abcab"), stop=StopRule(max_new_tokens=40), sampling=sampling, speculation=speculation
            )
        )
        return [token for step in steps for token in step.tokens], {step.pick.name for step in steps}

    plain, _ = text(PLAIN)
    drafted, picks = text(Speculation("table", draft_size=5))
    assert drafted == plain
    assert any(pick.startswith("table-tree") for pick in picks)


def test_the_scheduler_and_the_plan_know_it(engine: Engine, bundle: Path) -> None:
    list(engine.steps(engine.encode("abcab"), stop=StopRule(max_new_tokens=8), speculation=Speculation()))
    assert {prospect.name for prospect in engine.explain()} == {"plain", "suffix-chain", "table-tree"}
    size = (bundle / DRAFT_TABLE_NAME).stat().st_size
    assert engine.plan.process.part(DRAFT_TABLE).hot == size
    assert engine.plan.draft.shape == "tree"


def test_what_is_no_table_is_one_line(bundle: Path, manifest: Manifest, tmp_path: Path) -> None:
    path, data = tmp_path / DRAFT_TABLE_NAME, (bundle / DRAFT_TABLE_NAME).read_bytes()
    rng = np.random.default_rng(0)
    for damaged in (b"", data[:40], data[:-4], data + bytes(4), b"x" + data[1:], data[:16] + b"\xff" * 8 + data[24:]):
        path.write_bytes(damaged)
        with pytest.raises(ManifestError, match="export the bundle again") as error:
            DraftTable(path, manifest)
        assert "\n" not in str(error.value)
    for place in rng.integers(0, len(data), 60):  # refused, or a table that drafts tokens of the vocabulary
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :])
        try:
            drafter = TableDrafter(DraftTable(path, manifest))
        except ManifestError:
            continue
        for token in range(97, 100):
            drafted = drafter.propose(_context([token]), DraftLimit(8, 4, "tree", floor=1e-9)).tokens
            assert all(0 <= each < manifest.target.shape.vocab_size for each in drafted)


def test_a_bundle_whose_table_was_changed_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy", copy_function=os.link)
    (copy / DRAFT_TABLE_NAME).unlink()
    (copy / DRAFT_TABLE_NAME).write_bytes(bytes((bundle / DRAFT_TABLE_NAME).stat().st_size))
    with pytest.raises(PocketspecError, match=f"{DRAFT_TABLE_NAME} was changed"):
        Engine.open(copy, Request(threads=1))


def test_a_text_that_is_none_ends_an_export_before_its_levels(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.bundle.export_level", lambda *given: pytest.fail("a level was exported"))
    (tmp_path / "empty").write_text("")
    request = ExportRequest(str(tiny_models.target), tmp_path / "out", drafters=(), table_texts=(tmp_path / "empty",))
    with pytest.raises(TextError, match="comes twice"):
        export_bundle(request)
    assert not (tmp_path / "out").exists()


def test_a_table_says_no_more_than_was_seen_and_of_known_tokens(
    bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """The first context's times seen are behind the keys and the numbers of first entries, two arrays on the tokens."""
    data, path = bytearray((bundle / DRAFT_TABLE_NAME).read_bytes()), tmp_path / DRAFT_TABLE_NAME
    contexts = np.frombuffer(data, "<i8", 6, 16)[::2]
    place = 64 + 8 * int(contexts.sum()) + 4 * (int(contexts[0]) + 1)
    tokens = place + 8 * int(contexts[0])
    for at, value in ((place, 1), (tokens, manifest.target.shape.vocab_size)):
        damaged = data[:at] + value.to_bytes(4, "little") + data[at + 4 :]
        path.write_bytes(damaged)
        with pytest.raises(ManifestError, match="is no draft table"):
            DraftTable(path, manifest)


def test_texts_that_cannot_be_counted_are_one_line(tiny_models: TinyModels, tmp_path: Path) -> None:
    missing = ExportRequest(str(tiny_models.target), tmp_path / "out", drafters=(), table_texts=(tmp_path / "no",))
    with pytest.raises(RequestError, match=r"--draft-table .*no such file"):
        make_jobs(missing)
    (tmp_path / "latin").write_bytes(b"\xe9t\xe9 " * 9)
    for name, text, reason in (("empty", b"", "comes twice"), ("latin", b"\xe9t\xe9", "not UTF-8")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(TextError, match=reason):
            count_table([tmp_path / name], tiny_models.target, 259)
    with pytest.raises(TextError, match="no tokenizer"):
        count_table([tmp_path / "empty"], None, 259)
    with pytest.raises(TextError, match="at most 2,097,152"):
        count_table([tmp_path / "empty"], tiny_models.target, 1 << 22)
