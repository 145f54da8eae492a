"""Draft vocabularies: which tokens keep their logits, the rows that a cut head has, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from export.manifest import DraftVocabulary, Vocabulary
from export.sources.cut_head import CutHead
from export.sources.draft_vocabulary import DraftVocabularyError, choose_tokens
from export.sources.texts import TextError

WORDS = [f"word{number}" for number in range(20)]
TOKENS = ["a", "<0x0A>", *WORDS, "</s>", "<call>", "<unused>"]
VOCABULARY = Vocabulary(len(TOKENS), "", (TOKENS.index("</s>"),))
NEEDED = {TOKENS.index(token) for token in ("a", "<0x0A>", "</s>", "<call>")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder whose chat template writes one of the added tokens."""
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS[:-3])}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(TOKENS[-3:])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"chat_template": "{{ messages }}<call>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def _choose(folder: Path | None, wanted: int, *texts: Path) -> tuple[set[int], DraftVocabulary]:
    chosen = choose_tokens("small", wanted, folder, len(TOKENS) + 7, VOCABULARY, texts)
    assert list(chosen.ids) == sorted(set(chosen.ids))
    assert len(chosen.ids) == wanted == chosen.described.tokens
    return set(chosen.ids), chosen.described


def test_the_most_frequent_tokens_of_all_texts_are_kept(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("word7 word7 word7 word9\n" * 5)
    two.write_text("word9\n" * 30 + "word3 word2\n")
    ids, described = _choose(folder, len(NEEDED) + 3, one, two)
    assert ids == NEEDED | {TOKENS.index(word) for word in ("word9", "word7", "word2")}  # at a tie the lower id
    assert described == DraftVocabulary(len(NEEDED) + 3, "one.txt, two.txt", pytest.approx(51 / 52))


def test_without_a_text_the_first_tokens_of_the_tokenizer_are_kept(folder: Path) -> None:
    assert _choose(folder, len(NEEDED) + 2) == (NEEDED | {2, 3}, DraftVocabulary(len(NEEDED) + 2))


def test_without_a_tokenizer_the_first_ids_and_the_end_tokens_are_kept() -> None:
    assert _choose(None, 3)[0] == {0, 1, TOKENS.index("</s>")}


def test_more_tokens_than_a_text_has_are_filled_up_in_the_tokenizers_order(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("word19")
    assert _choose(folder, len(NEEDED) + 3, text)[0] == NEEDED | {TOKENS.index("word19"), 2, 3}


@pytest.mark.parametrize("wanted", [len(NEEDED) - 1, len(TOKENS)])
def test_sizes_that_cut_what_is_needed_or_nothing_are_refused(folder: Path, wanted: int) -> None:
    message = rf"^--draft-vocab {wanted} for small: allowed are 4 \(.*\) to 24, one less than it has$"
    with pytest.raises(DraftVocabularyError, match=message):
        _choose(folder, wanted)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has no text; give one"), (b"\xff\xfe", "it is not UTF-8"), (None, "Is a directory|Permission")],
)
def test_texts_that_cannot_be_counted_are_named(
    folder: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    text = tmp_path / "text.txt"
    text.mkdir() if content is None else text.write_bytes(content)
    with pytest.raises(TextError, match=message) as caught:
        _choose(folder, 10, text)
    assert str(text) in str(caught.value)


def test_a_text_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DraftVocabularyError, match="which has no tokenizer; drop --text"):
        _choose(None, 10, tmp_path / "text.txt")


class Tensors:
    """A head and an embedding."""

    values: ClassVar = {"head": np.arange(60, dtype=np.float32).reshape(20, 3), "table": np.ones((20, 3), np.float32)}

    def names(self) -> set[str]:
        return set(self.values)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].shape

    def read(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
        return self.values[name][first:last]


@given(st.sets(st.integers(0, 19), min_size=1), st.integers(0, 20), st.integers(0, 20))
def test_a_cut_head_has_the_rows_of_its_tokens(ids: set[int], first: int, last: int) -> None:
    cut = CutHead(Tensors(), {"head": "head", "tied": "head"}, sorted(ids))
    for name in ("head", "tied"):
        np.testing.assert_array_equal(cut.read(name, first, last), Tensors.values["head"][sorted(ids)][first:last])
        assert cut.shape(name) == cut.read(name).shape
    assert cut.names() == {"head", "table", "tied"}
    np.testing.assert_array_equal(cut.read("table", first, last), Tensors.values["table"][first:last])
