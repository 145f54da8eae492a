"""A compact tokenizer is the same tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from export.sources.compact_tokenizer import write_compact_tokenizer

TEXTS = (
    "Hello, world!",
    "  spaces\tand\nlines \u00e9\u00df \u4f60\u597d \U0001f600",
    "def f(x): return x ** 2 # 3.14159",
    "",
)


@pytest.mark.parametrize("name", ["qwen2", "smollm", "gpt2"])
def test_texts_have_the_same_tokens(name: str, shared_data: Path, tmp_path: Path) -> None:
    source, compact = shared_data / "tokenizers" / name / "tokenizer.json", tmp_path / "tokenizer.json"
    write_compact_tokenizer(source, compact, 200_000)
    assert compact.stat().st_size < source.stat().st_size
    before, after = Tokenizer.from_file(str(source)), Tokenizer.from_file(str(compact))
    assert before.get_vocab(with_added_tokens=True) == after.get_vocab(with_added_tokens=True)
    for text in TEXTS:
        encoded = after.encode(text)
        assert encoded.ids == before.encode(text).ids
        assert after.decode(encoded.ids) == before.decode(encoded.ids)


def test_a_merge_with_a_space_in_it_keeps_all_merges_lists(tmp_path: Path) -> None:
    data = {"model": {"type": "BPE", "merges": [["a", "b"], ["a b", "c"]]}}
    (tmp_path / "in.json").write_text(json.dumps(data, indent=2))
    write_compact_tokenizer(tmp_path / "in.json", tmp_path / "out.json", 9)
    assert json.loads((tmp_path / "out.json").read_text()) == data


def test_other_kinds_of_tokenizers_lose_white_space_alone(tmp_path: Path) -> None:
    data = {"model": {"type": "Unigram", "vocab": [["\u2581a", -1.5], ["b", -2.25e-7]]}, "normalizer": None}
    (tmp_path / "in.json").write_text(json.dumps(data, indent=2))
    write_compact_tokenizer(tmp_path / "in.json", tmp_path / "out.json", 9)
    assert json.loads((tmp_path / "out.json").read_text()) == data
