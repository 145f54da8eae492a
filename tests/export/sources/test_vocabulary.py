"""Vocabularies: entries, hash, end tokens, and which pairs are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from export.sources.vocabulary import VocabularyError, check_pair, read_tokens, read_vocabulary
from tests.places import SHARED

needs_tokenizers = pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="no shared tokenizers")


def make_folder(folder: Path, tokens: list[str], **files: object) -> Path:
    """A checkpoint folder with a tokenizer of ``tokens`` and JSON files by stem."""
    folder.mkdir()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    Tokenizer(models.WordLevel(vocabulary, unk_token=tokens[0])).save(str(folder / "tokenizer.json"))
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return folder


def test_end_tokens_are_gathered_from_all_three_files(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "model",
        ["a", "b", "</s>", "<end>", "<s>"],
        generation_config={"eos_token_id": [3, 1]},
        config={"eos_token_id": 3, "bos_token_id": 0},
        tokenizer_config={"eos_token": {"content": "</s>"}, "bos_token": "<s>"},
    )
    vocabulary = read_vocabulary(folder)
    assert (vocabulary.entries, vocabulary.eos_token_ids, vocabulary.bos_token_id) == (5, (3, 1, 2), 4)


def test_the_begin_token_is_what_the_tokenizer_says(tmp_path: Path) -> None:
    config = {"bos_token_id": 1}
    silent = make_folder(tmp_path / "silent", ["a", "b"], config=config)
    none = make_folder(tmp_path / "none", ["a", "b"], config=config, tokenizer_config={"bos_token": None})
    assert read_vocabulary(silent).bos_token_id == 1
    assert read_vocabulary(none).bos_token_id is None


@pytest.mark.parametrize("kind", ["words", "pieces", "unigram"])
def test_entries_are_those_of_the_tokenizer_itself(tmp_path: Path, kind: str) -> None:
    made = {
        "words": models.WordLevel({"a": 0, "b": 1}, unk_token="a"),
        "pieces": models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]),
        "unigram": models.Unigram([("a", -1.0), ("b", -2.0), ("c", -3.0)], unk_id=0),
    }
    tokenizer = Tokenizer(made[kind])
    tokenizer.add_special_tokens(["<s>", "b"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    expected = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    assert read_tokens(tmp_path) == expected


def test_padding_of_the_logits_is_no_difference(tmp_path: Path) -> None:
    target = make_folder(tmp_path / "target", ["a", "b"], config={"vocab_size": 152_064})
    drafter = make_folder(tmp_path / "drafter", ["a", "b"], config={"vocab_size": 151_936})
    check_pair(target, drafter)
    assert read_vocabulary(target).sha256 == read_vocabulary(drafter).sha256


@pytest.mark.parametrize(
    ("tokens", "number", "shown"),
    [
        (["a", "b", "d", "e"], 2, "'d'"),
        (["a", "c", "b", "e"], 1, "'c'"),
        (["a", "b", "c"], 3, r"absent \(3 entries\)"),
    ],
)
def test_the_first_token_that_differs_is_named(tmp_path: Path, tokens: list[str], number: int, shown: str) -> None:
    target = make_folder(tmp_path / "target", ["a", "b", "c", "e"])
    drafter = make_folder(tmp_path / "drafter", tokens)
    with pytest.raises(VocabularyError, match=rf"token {number} is '.' in \S+target and {shown} in") as caught:
        check_pair(target, drafter)
    assert "\n" not in str(caught.value)
    assert read_vocabulary(target).sha256 != read_vocabulary(drafter).sha256


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"no tokenizer\.json in"):
        read_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is not a tokenizer"):
        read_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model"')
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is not JSON"):
        read_vocabulary(tmp_path)


@needs_tokenizers
def test_real_tokenizers() -> None:
    folder = SHARED / "tokenizers"
    qwen = read_vocabulary(folder / "qwen2")
    assert qwen.entries >= 151_646
    assert qwen.bos_token_id is None
    assert 151_645 in qwen.eos_token_ids
    with pytest.raises(VocabularyError, match=r"token 0 is '!' in \S+qwen2 and '<\|endoftext\|>' in \S+smollm"):
        check_pair(folder / "qwen2", folder / "smollm")
    with pytest.raises(VocabularyError, match=r"token 0 is '<\|endoftext\|>' in \S+smollm and '!' in \S+gpt2"):
        check_pair(folder / "smollm", folder / "gpt2")


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="no shared models")
def test_the_small_models_share_one_tokenizer() -> None:
    folder = SHARED / "models"
    check_pair(folder / "bitllama-3m", folder / "stories260k")
    vocabulary = read_vocabulary(folder / "bitllama-1m")
    assert (vocabulary.entries, vocabulary.eos_token_ids, vocabulary.bos_token_id) == (512, (2,), 1)
