"""The store of earlier texts: what it finds, what it forgets, its file, and who may have it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import Vocabulary
from runtime.__main__ import main
from runtime.decoding.draft import DraftLimit
from runtime.drafters.store_file import StoreError
from runtime.drafters.suffix import SuffixDrafter, SuffixIndex
from runtime.drafters.suffix_store import STORE_BYTES, SuffixStore
from tests.places import ROOT
from tests.runtime.drafters.test_suffix import context_of

VOCABULARY = Vocabulary(300, "ab" * 32, (2,))
LIMIT = DraftLimit(8, 8)
TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), max_size=5)


def _store(path: Path, num_bytes: int = STORE_BYTES, notes: list[str] | None = None) -> SuffixStore:
    return SuffixStore(path, VOCABULARY, num_bytes, (notes if notes is not None else []).append)


def _array(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def _with(path: Path, *texts: list[int]) -> SuffixStore:
    """A store that has ``texts``, all of which are searched."""
    store = _store(path)
    for text in (*texts, [299]):
        store.remember(_array(*text))
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_later_conversation_drafts_what_an_earlier_one_said(path: Path) -> None:
    _with(path, list(range(10, 40))).close()
    store, context = _store(path), context_of([7, 8, 20, 21, 22])
    assert SuffixDrafter(others=store).propose(context, LIMIT).tokens == (23, 24)
    assert not SuffixDrafter().propose(context, LIMIT).tokens
    store.close()


def test_the_longer_match_comes_first_wherever_it_is(path: Path) -> None:
    store = _with(path, [*range(10, 40)])
    # Two tokens match in the conversation, for drafts of four, and six in the store.
    context = context_of([*range(24, 33), 50, *range(20, 26)])
    assert SuffixDrafter(others=store).propose(context, LIMIT).tokens == tuple(range(26, 34))
    store.close()


@settings(max_examples=60)
@given(TEXTS, st.lists(st.integers(0, 3), max_size=20), st.integers(1, 6))
def test_matches_are_those_of_an_index_of_each_text(tmp_path_factory, texts, query, depth) -> None:
    store = _with(tmp_path_factory.mktemp("store") / "store", *texts)
    kept = [text.tolist() for text in store._texts]
    wanted = set()
    for text in kept:
        for place in range(2, len(text) + 1):
            pairs = zip(reversed(text[:place]), reversed(query), strict=False)
            match = 0
            for one, other in pairs:
                if one != other or match == 16:
                    break
                match += 1
            if match >= 2:
                wanted.add((match, tuple(text[place : place + depth])))
    found = store.occurrences(_array(*query), depth)
    assert {(place.match, tuple(place.continuation)) for place in found} == wanted or len(found) >= 24
    assert [place.match for place in found] == sorted((place.match for place in found), reverse=True)
    store.close()


def test_the_conversation_itself_is_not_searched_twice(path: Path) -> None:
    store = _store(path)
    for length in (10, 20, 30):  # turn by turn
        store.remember(_array(*range(length)))
        assert store.occurrences(_array(3, 4, 5), 4) == []
    assert store.num_tokens == 30
    store.remember(_array(*range(100, 120)))
    assert [place.continuation for place in store.occurrences(_array(3, 4, 5), 4)] == [[6, 7, 8, 9]]
    store.close()


def test_it_stays_within_its_bytes_and_drops_the_oldest(path: Path) -> None:
    num_bytes = 44 * 400
    store = _store(path, num_bytes)
    for number in range(30):
        store.remember(_array(*[number, *range(40, 80), number, number]))
        assert store.nbytes + 8 * store.num_tokens <= num_bytes
    texts = [int(text[0]) for text in store._texts]
    assert texts == list(range(texts[0], 29))
    assert 4 <= len(texts) <= 9
    store.remember(_array(*([5] * 5000)))
    assert store.nbytes + 8 * store.num_tokens <= num_bytes
    store.close()
    assert path.stat().st_size < num_bytes


def test_a_smaller_plan_forgets_and_a_larger_one_reads_the_file_again(path: Path) -> None:
    store = _with(path, list(range(10, 40)))
    store.allow(0)
    assert store.occurrences(_array(20, 21, 22), 4) == []
    store.remember(_array(1, 2, 3))
    store.allow(STORE_BYTES)
    assert [place.continuation for place in store.occurrences(_array(20, 21, 22), 2)] == [[23, 24]]
    store.close()


def test_the_index_of_one_text_is_as_before(path: Path) -> None:
    index = SuffixIndex(64)
    index.update(_array(*[1, 2, 3] * 8))
    assert index.occurrences(3) == index.occurrences_of(_array(*[1, 2, 3] * 8), 3)


@pytest.mark.skipif(sys.platform == "win32", reason="rights of files are others there")
def test_nobody_else_may_read_it(path: Path) -> None:
    path.touch(0o644)
    _with(path, [1, 2, 3]).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.parent.iterdir())
    assert {file.name for file in path.parent.iterdir()} == {"store", "store.lock"}


def test_two_processes_cannot_have_it_and_the_lock_ends_with_its_process(path: Path) -> None:
    code = (
        "import sys; from tests.runtime.drafters.test_suffix_store import _store; from pathlib import Path\n"
        "_store(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match="is in use by another process; end it, or give another file"):
            _store(path)
        other.kill()
    _store(path).close()


DAMAGE = {
    "cut": lambda data: data[:-4],
    "changed": lambda data: data[:-1] + b"\xff",
    "another token": lambda data: data[:-4] + b"\x07\0\0\0",
    "empty line": lambda data: b"\n" + data,
    "text": lambda data: b"hello",
    "zeros": lambda data: bytes(len(data)),
    "newer": lambda data: data.replace(b'"version": 1', b'"version": 2'),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_kept_and_a_new_one_begins(path: Path, kind: str) -> None:
    _with(path, [1, 2, 3, 4]).close()
    damaged = DAMAGE[kind](path.read_bytes())
    for number in ("", "1"):
        path.write_bytes(damaged)
        notes: list[str] = []
        store = _store(path, notes=notes)
        store.remember(_array(1, 2))
        store.close()
        (note,) = notes
        kept = path.with_name(f"store.damaged{number}")
        assert f"it is kept as {kept}, and a new one begins" in note
        assert "\n" not in note
        assert kept.read_bytes() == damaged
    _store(path, notes=notes).close()
    assert len(notes) == 1


def test_tokens_of_another_tokenizer_are_refused(path: Path) -> None:
    _with(path, [1, 2, 3]).close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"tokens of another tokenizer; .* python -m runtime forget"):
        SuffixStore(path, Vocabulary(300, "cd" * 32, (2,)), STORE_BYTES)
    assert path.read_bytes() == before
    _store(path).close()


def test_a_full_disk_is_said_and_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    store = _store(path, notes=notes)
    store.remember(_array(1, 2, 3))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    store.remember(_array(9, 9, 9))
    monkeypatch.undo()
    store.close()
    assert notes == [f"the suffix store {path} cannot be written (No space left on device)"]
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"store", "store.lock"}


@pytest.mark.parametrize("kind", ["folder", "link", "nowhere"])
def test_places_where_no_store_can_be_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "other")
    else:
        path = tmp_path / "missing" / "store"
    with pytest.raises(StoreError, match=r"is a link or no file|there is no folder"):
        _store(path)


def test_one_command_erases_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _with(path, [1, 2, 3]).close()
    path.with_name("store.damaged").write_bytes(path.read_bytes()[:-1])
    other = path.with_name("store.damaged1")
    other.write_text("somebody's notes")
    assert main(["forget", str(path)]) == 0
    stays = f"{other} stays: it does not begin as a store does; delete it yourself if it was one\n"
    assert capsys.readouterr().out == f"erased {path}\n{stays}"
    assert list(path.parent.iterdir()) == [other]
    assert main(["forget", str(path)]) == 0
    assert capsys.readouterr().out == stays
    other.unlink()
    assert main(["forget", str(path)]) == 0
    assert capsys.readouterr().out == f"there is nothing at {path}\n"


def test_what_is_no_store_and_what_is_in_use_is_not_erased(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("somebody's notes")
    assert main(["forget", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path} is no suffix store; nothing was deleted\n"
    path.unlink()
    store = _with(path, [1, 2, 3])
    assert main(["forget", str(path)]) == 2
    assert "is in use by another process" in capsys.readouterr().err
    store.close()
    assert path.exists()
