"""Every piece of an answer's text is shown once, beside the one who proposed it."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pytest

from runtime.decoding.draft import Step
from runtime.decoding.stats import GenerationStats
from runtime.decoding.stop import Stops
from runtime.decoding.text_chunks import TextChunk, text_chunks
from runtime.engine import Engine
from runtime.speculation.request import Speculation
from tests.runtime.text.test_tokenizer import MADE

TOKENIZER = MADE["byte-fallback"]
FIRST_BYTE = 3  # the id of its token for byte 0


def chunks_of(steps: Sequence[tuple[bytes, str]], finish: str, stop: Sequence[str] = ()) -> list[TextChunk]:
    """The chunks of steps of one byte a token; every token of a step is proposed by the digit beside it."""

    def make() -> Generator[Step, None, None]:
        for number, (tokens, sources) in enumerate(steps, 1):
            ids = tuple(FIRST_BYTE + value for value in tokens)
            yield Step(ids, tuple(sources), 0, 0, 0, 0, 0, finish if number == len(steps) else None)

    stops = Stops(TOKENIZER, stop)
    return list(text_chunks(make(), GenerationStats(), stops.stream(), stops.text()))


def pieces_of(chunks: Sequence[TextChunk]) -> list[tuple[str, str]]:
    return [tuple(piece) for chunk in chunks for piece in chunk.pieces]


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    chunks = chunks_of([("aé".encode(), "121"), ("日".encode(), "345")], "length")
    assert pieces_of(chunks) == [("a", "1"), ("é", "1"), ("日", "5")]


def test_what_is_left_at_the_end_belongs_to_the_last_token() -> None:
    assert pieces_of(chunks_of([(b"a\xe6", "12")], "length")) == [("a", "1"), ("\N{REPLACEMENT CHARACTER}", "2")]


def test_text_that_was_held_back_belongs_to_the_token_that_frees_it() -> None:
    assert pieces_of(chunks_of([(b"ab", "12"), (b"d", "3")], "length", ["bc"])) == [("a", "1"), ("bd", "3")]
    assert pieces_of(chunks_of([(b"ab", "12"), (b"c", "3")], "stop", ["bc"])) == [("a", "1")]


def test_an_end_token_has_no_text() -> None:
    assert pieces_of(chunks_of([(b"a\x00", "12")], "eos")) == [("a", "1")]


@pytest.mark.parametrize("drafter", ["near", "suffix", "near>far", "none"])
def test_pieces_name_the_sources_of_the_tokens(engine: Engine, drafter: str) -> None:
    """One character a token: every character has a source of its own."""
    for chunk in engine.generate("Hello", max_new_tokens=24, speculation=Speculation(drafter)):
        assert [piece.source for piece in chunk.pieces for _ in piece.text] == list(chunk.step.sources)
        assert chunk.text == engine.tokenizer.decode(chunk.step.tokens)
