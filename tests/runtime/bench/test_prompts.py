"""Prompts of every kind of file, their categories, and files that are refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.manifest import PocketspecError
from runtime.bench.prompts import BenchPrompt, describe_lengths, first_tokens, read_prompts


def _write(path: Path, *records: object) -> Path:
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.txt", "one\n\ntwo\n", ["one", "two"]),
        ("a.txt", "one\nmore<|endoftext|>\n two <|endoftext|>\n", ["one\nmore", "two"]),
        ("a.jsonl", '{"prompt": "one"}\n\n{"turns": ["two\u2028", "later"]}\n', ["one", "two\u2028"]),
    ],
)
def test_prompts_are_read_from_each_kind_of_file(tmp_path: Path, name: str, text: str, prompts: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_prompts(path) == [BenchPrompt(prompt) for prompt in prompts]
    assert read_prompts(path, 1) == [BenchPrompt(prompts[0])]


def test_categories_are_those_of_the_file(tmp_path: Path) -> None:
    records = [
        {"question_id": 81, "category": "writing", "turns": ["a"]},
        {"prompt": "b", "response": "x", "kind": "bedtime"},
        {"prompt": "c", "category": "writing"},
        {"prompt": "d", "category": None},
        {"prompt": "e", "kind": "bedtime", "category": "math"},
    ]
    path = _write(tmp_path / "a.jsonl", *records)
    prompts = read_prompts(path)
    assert [prompt.category for prompt in prompts] == ["writing", "bedtime", "writing", None, "math"]
    assert [prompt.text for prompt in read_prompts(path, per_category=1)] == ["a", "b", "d", "e"]
    assert [prompt.text for prompt in read_prompts(path, 2, per_category=1)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "one"', "not JSON ("),
        ("[1, 2]", "not a JSON object with 'prompt' or 'turns'"),
        ({"question": "one"}, "not a JSON object with 'prompt' or 'turns'"),
        ({"prompt": 3}, "its 'prompt', or the first of its 'turns', is no text"),
        ({"prompt": " "}, "its 'prompt', or the first of its 'turns', is no text"),
        ({"turns": []}, "its 'prompt', or the first of its 'turns', is no text"),
        ({"turns": "one"}, "its 'prompt', or the first of its 'turns', is no text"),
        ({"prompt": "one", "category": 4}, "its 'category' or 'kind' is no text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: object, reason: str) -> None:
    path = _write(tmp_path / "a.jsonl", {"prompt": "fine"}, line)
    with pytest.raises(PocketspecError) as refused:
        read_prompts(path)
    message = str(refused.value)
    assert message.startswith(f"{path}, line 2: ")
    assert reason in message
    assert "1 of 2 lines are broken (2)" in message
    assert "\n" not in message


def test_all_broken_lines_are_named_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", *(["{"] * 25), {"prompt": "fine"}, "}")
    with pytest.raises(PocketspecError, match=r"line 1: .*; 26 of 27 lines are broken \(1, 2, .*, 20, 6 more\)"):
        read_prompts(path)


def test_files_without_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n")
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.txt").write_bytes(b"abc\xff")
    for name, message in (
        ("a.txt", "a.txt has no prompts"),
        ("a.jsonl", "a.jsonl has no prompts"),
        ("b.txt", "b.txt: it is not UTF-8 text at byte 3"),
        ("none.txt", "none.txt: No such file or directory"),
        ("", "Is a directory"),
    ):
        with pytest.raises(PocketspecError, match=message):
            read_prompts(tmp_path / name)


PROMPTS = [[1] * length for length in (97, 139, 120)]


def test_prompts_are_cut_to_what_was_asked_for() -> None:
    assert [len(prompt) for prompt in first_tokens(PROMPTS, 100)] == [97, 100, 100]
    assert first_tokens(PROMPTS, None) == PROMPTS


def test_a_length_that_no_prompt_has_is_refused() -> None:
    with pytest.raises(PocketspecError, match="--prompt-tokens 256: of 3 prompts the longest has 139 tokens; ask for"):
        first_tokens(PROMPTS, 256)


@pytest.mark.parametrize(
    ("lengths", "wanted", "text"),
    [
        ((139, 139), None, "of 139 tokens"),
        ((97, 139), None, "of 97 to 139 tokens"),
        ((64, 64), 64, "of 64 tokens"),
        ((97, 128, 128), 128, "of 97 to 128 tokens (1 of 3 have fewer than the 128 wanted)"),
    ],
)
def test_the_table_says_how_long_prompts_were(lengths: tuple[int, ...], wanted: int | None, text: str) -> None:
    assert describe_lengths([[0] * length for length in lengths], wanted) == text
