"""A text in pieces has the tokens of the whole, and a file is read without more of it than a piece."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.manifest import PocketspecError
from runtime.text.text_pieces import around, encode_pieces, read_pieces
from runtime.text.token_ids import TokenIds
from runtime.text.tokenizer import Tokenizer
from tests.runtime.text.test_tokenizer import HARD_TEXT, MADE, REAL, shared

PROSE = f"Once upon a time, there's a café.\n\nIt was 1,234 steps   away!  {HARD_TEXT} “Well,” she said: go on. " * 3


def in_pieces(tokenizer: Tokenizer, text: str, size: int) -> list[int]:
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    before, after = around(tokenizer)
    return [*before, *(token for part in encode_pieces(tokenizer, pieces) for token in part), *after]


@pytest.mark.parametrize("size", [70, 301, 10_000])
@pytest.mark.parametrize("name", [*REAL, *MADE])
def test_pieces_have_the_tokens_of_the_whole(name: str, size: int) -> None:
    tokenizer = MADE[name] if name in MADE else shared(name)
    assert in_pieces(tokenizer, PROSE, size) == tokenizer.encode(PROSE)


@pytest.mark.parametrize("text", ["日本語のテキスト" * 50, "x" * 400, "1 2 3 44\n" * 30, " " * 300])
@pytest.mark.parametrize("name", MADE)
def test_any_text_is_encoded_whole_even_where_it_is_cut_anywhere(name: str, text: str) -> None:
    tokenizer = MADE[name]
    assert tokenizer.decode(in_pieces(tokenizer, text, 64)) == tokenizer.decode(tokenizer.encode(text))


def test_token_ids_are_not_cut(tmp_path: Path) -> None:
    tokenizer = TokenIds(tmp_path)
    text = " ".join(map(str, range(100, 200)))
    assert in_pieces(tokenizer, text, 10) == list(range(100, 200))


@given(st.text(), st.integers(1, 10))
def test_a_file_is_read_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.mktemp("text") / "file"
    path.write_bytes(text.encode())
    pieces = list(read_pieces(path, size))
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= size + 3


@given(st.text(max_size=20), st.integers(1, 10))
def test_the_first_wrong_byte_is_named(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.mktemp("text") / "file"
    path.write_bytes(text.encode() + b"\xffrest")
    with pytest.raises(PocketspecError, match=f"is not UTF-8 text at byte {len(text.encode())}$"):
        list(read_pieces(path, size))
