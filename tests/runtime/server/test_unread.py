"""What waits to be read: nothing is lost, and its bytes are those that are planned."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest

from runtime.decoding.logprobs import TokenLogprob
from runtime.server.errors import ApiError
from runtime.server.json_parts import LazyList, json_parts
from runtime.server.request_memory import AnswerShare, AnswerSize, RequestRoom
from runtime.server.segments import Segment
from runtime.server.token_sources import TokenSource
from runtime.server.tool_calls.format import ToolCall
from runtime.server.unread import MOST_TEXT_BYTES, MOST_TOKENS, Piece, Unread

TOP = 20
KINDS: Any = ("content", "reasoning", "tool_calls")


def logprob(number: int) -> TokenLogprob:
    return TokenLogprob(number, -number / 3, tuple((token, -token / 7) for token in range(number, number + TOP)))


def sources_of(text: str, rng: random.Random) -> list[TokenSource]:
    return [{"text": letter, "source": rng.choice(("target", "drafter"))} for letter in text]


def take_all(unread: Unread) -> list[Piece]:
    found = []
    while unread:
        found.append(unread.take())
    return found


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_whenever_it_is_taken(seed: int) -> None:
    """Text and calls by kind, who proposed which character, and log probabilities come in their order."""
    rng, unread = random.Random(seed), Unread()
    given: list[tuple[str, str, str]] = []
    calls: list[ToolCall] = []
    pieces: list[Piece] = []
    for number in range(200):
        unread.add_logprobs([logprob(number)])
        kind = rng.choice(KINDS)
        text = "".join(rng.choice("aé☂😀") for _ in range(rng.choice((1, 3, 800))))
        call = (ToolCall(f"f{number}", "{}"),) if kind == "tool_calls" else ()
        if rng.random() < 0.7:
            sources = sources_of(text, rng)
            unread.add(Segment(kind, text, call), sources)
            given += [(kind, each["text"], each["source"]) for each in sources]
            calls += call
        while unread and rng.random() < 0.3:
            pieces.append(unread.take())
    unread.end()
    pieces += take_all(unread)
    taken = [
        (piece.segment.kind, letter, each["source"])
        for piece in pieces
        for each in piece.sources or ()
        for letter in each["text"]
    ]
    assert taken == given
    assert [call for piece in pieces for call in piece.segment.calls] == calls
    assert [each for piece in pieces for each in piece.logprobs] == list(map(logprob, range(200)))


def test_pieces_are_small_and_few() -> None:
    """However much waits, in however many parts; whole characters, and all of a call at once."""
    unread = Unread()
    for number in range(1000):
        unread.add_logprobs([logprob(number)])
        unread.add(Segment("content", "é☂"))
    unread.add(Segment("tool_calls", "x" * 5000, (ToolCall("f", "{}"),)))
    *pieces, call = take_all(unread)
    assert all(len(piece.segment.text.encode()) <= MOST_TEXT_BYTES for piece in pieces)
    assert all(len(piece.logprobs) <= MOST_TOKENS for piece in pieces)
    assert len(pieces) == 1000 // MOST_TOKENS
    assert call.segment.text == "x" * 5000
    assert [kind for kind, _ in groupby(piece.segment.kind for piece in pieces)] == ["content", "hidden"]


def test_log_probabilities_after_the_last_text_come_by_themselves() -> None:
    unread = Unread()
    unread.add_logprobs([logprob(1)])
    assert not unread
    unread.end()
    assert unread.take() == Piece(Segment("hidden", ""), None, (logprob(1),))


@pytest.mark.parametrize(("logprobs", "has_sources"), [(None, False), (TOP, False), (None, True)])
def test_what_waits_has_the_bytes_that_are_planned(logprobs: int | None, has_sources: bool) -> None:
    """Beside those that any answer has."""
    tokens, unread, given = 3000, Unread(), logprob(7)
    tracemalloc.start()
    try:
        for number in range(tokens):
            if logprobs is not None:
                unread.add_logprobs([given])
            source = "target" if number % 2 else "drafter"
            unread.add(Segment("content", "word"), [{"text": "word", "source": source}] if has_sources else None)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    size = AnswerSize(tokens, logprobs, has_sources)
    assert 0 < used <= size.nbytes(tokens, 0) - size.nbytes(0, 0)


def test_an_answer_takes_what_it_can_become_then_what_it_became_then_nothing() -> None:
    size = AnswerSize(1000, 3)
    room = RequestRoom(size.nbytes(1000, 0) + 10_000, "have answers to read", "ask for less")
    share = AnswerShare(room, size)
    assert room.taken == size.nbytes(1000, 0)
    with pytest.raises(ApiError, match=r"that have answers to read take .* try again later") as full:
        AnswerShare(room, size)
    assert full.value.status == 429
    share.fit(10, 50, is_over=False)
    assert room.taken == size.nbytes(1000, 0)
    share.fit(500, 8000, is_over=False)  # longer texts than usual
    assert size.nbytes(1000, 0) < room.taken == size.nbytes(1000, 8000)
    with pytest.raises(ApiError, match="ask for less"):
        share.fit(600, 100_000, is_over=False)
    share.fit(20, 80, is_over=True)
    assert room.taken == size.nbytes(20, 80) < size.nbytes(1000, 0)
    share.release()
    share.release()
    assert room.taken == 0


def test_json_in_parts_is_json() -> None:
    def value(listed: Callable[[Any], Any]) -> dict[str, Any]:
        rows = listed({"token": f"é{number}", "top": [number, None]} for number in range(2000))
        return {"a": [{"rows": rows, "empty": listed(())}, 1, "x"], "b": {}, "c": [], "d": "\n😀", "e": None}

    found = list(json_parts(value(LazyList)))
    assert json.loads(b"".join(found)) == value(list)
    assert len(found) > 1
    assert max(map(len, found)) < 10_000
