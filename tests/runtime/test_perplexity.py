"""Perplexity of files: every token once, in any pieces; the one formula; refusals of one line."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.manifest import PocketspecError
from export.perplexity import perplexity
from memory import Request
from runtime.__main__ import main
from runtime.engine import Engine
from runtime.perplexity import score_file, windows

TEXT = "The cat sat on the mat, and the dog sat on the log. Then it was night again, as ever. " * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(2, 12), st.data())
def test_windows_score_every_token_but_the_first_once(number: list[int], size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size - 1))
    parts, count = [], 0
    for length in number:
        parts.append(list(range(count, count + length)))
        count += length
    found = list(windows(parts, size, stride))
    scored = list(chain.from_iterable(tokens[first:] for tokens, first in found))
    assert scored == (list(range(1, count)) if count > 1 else [])
    for place, (tokens, first) in enumerate(found):
        assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))
        assert 1 <= first < len(tokens) <= size
        assert place == 0 or first >= size - stride


def test_a_file_in_one_window_is_scored_as_its_text(engine: Engine, file: Path) -> None:
    score = score_file(engine, file, engine.capacity // 2, lambda score: None)
    surprises = [-each.logprob for each in engine.score(TEXT)]
    assert score.perplexity == pytest.approx(perplexity(surprises), rel=1e-12)
    # Every character is a token here, and the first has nothing before it.
    assert score.tokens == score.characters == score.num_bytes == len(TEXT) - 1
    assert score.nats_per_byte == score.nats_per_character == score.nats_per_token


def test_windows_have_the_tokens_before_them(random_bundle: Path, file: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, context=64, nodes=7)) as engine:
        shown = []
        score = score_file(engine, file, 16, shown.append)
        tokens = engine.encode(TEXT, raw=True)
        nats = [-each.logprob for each in engine.score(tokens[:64])]
        for end in range(80, len(tokens) + 16, 16):
            last = min(end, len(tokens))
            nats += [-each.logprob for each in engine.score(tokens[last - 64 : last], first=64 - (last - (end - 16)))]
    assert score.tokens == len(tokens) - 1 == len(nats)
    assert score.nats == pytest.approx(sum(nats), rel=1e-9)
    assert [each.tokens for each in shown] == sorted(each.tokens for each in shown)
    assert shown[-1].perplexity == score.perplexity


def test_the_command_says_it_in_words_and_as_json(
    random_bundle: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["perplexity", str(random_bundle), str(file), "--context", "64", "--threads", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["window"], data["stride"], data["tokens"], data["bytes"]) == (64, 32, len(TEXT) - 1, len(TEXT) - 1)
    assert f"perplexity {data['perplexity']:,.4f} per token" in out
    assert f"{data['nats_per_byte']:.4f} per byte" in out


@pytest.mark.parametrize(
    ("content", "more", "reason"),
    [
        (b"", [], "is empty"),
        (b"a", [], "has fewer than 2 tokens"),
        (b"fine so far \xff", [], "is not UTF-8 text at byte 12"),
        (b"cut off \xe2\x82", [], "is not UTF-8 text at byte 8"),
        (None, [], "No such file"),
        (TEXT.encode(), ["--stride", "64"], "a stride of 64 tokens with windows of 64, allowed: 1 to 63"),
        (TEXT.encode(), ["--stride", "0"], "a stride of 0 tokens"),
        (TEXT.encode(), ["--context", "100000"], "a context of 100000 tokens is outside"),
    ],
    ids=["empty", "a token", "a byte", "half a character", "no file", "long stride", "no stride", "long context"],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    random_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    more: list[str],
    reason: str,
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    words = ["perplexity", str(random_bundle), str(path), "--threads", "1", "--context", "64", *more]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert reason in lines[0]


def test_a_folder_is_no_text(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(PocketspecError, match="cannot read"):
        score_file(engine, tmp_path, 10, lambda score: None)
