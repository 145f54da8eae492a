"""What requests take of memory is planned, and refused beyond that."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory.meter import read_memory
from runtime.server.errors import ApiError
from runtime.server.request_memory import RequestMemory, RequestRoom, parsed_bytes
from tests.runtime.server.conftest import Post
from tests.runtime.server.serving import Server

MEMORY = RequestMemory(1_000_000, 512)
LETTERS = "xa" * 120_000
OBJECTS = ",".join(f'{{"k{number}":1}}' for number in range(49_000))
PARTS = [{"type": "text", "text": "x"}] * 20_000
# Each takes many times its bytes while it is read, parsed or encoded.
DEAR = {
    "long text": ("/completions", json.dumps({"prompt": LETTERS})),
    "longest text": ("/completions", json.dumps({"prompt": LETTERS[: MEMORY.longest_text]})),
    "long chat": ("/chat/completions", json.dumps({"messages": [{"role": "user", "content": LETTERS}]})),
    "wide text": ("/completions", '{"prompt": "' + "\N{GRINNING FACE}" * 240_000 + '"}'),
    "wrong ids": ("/completions", json.dumps({"prompt": ["a"] * 90_000})),
    "ids": ("/completions", json.dumps({"prompt": [5] * 99_000})),
    "objects": ("/completions", f'{{"prompt": "x", "other": [{OBJECTS}]}}'),
    "fields": ("/completions", "{" + ",".join(f'"k{number}":1' for number in range(90_000)) + "}"),
    "parts": ("/chat/completions", json.dumps({"messages": [{"role": "user", "content": PARTS}]})),
    "wrong parts": ("/chat/completions", json.dumps({"messages": [{"role": "user", "content": [{}] * 30_000}]})),
    "brackets": ("/completions", '{"prompt": ' + ("[" * 100 + "]" * 100 + ",") * 4_900 + '"x"}'),
}


@pytest.mark.parametrize("name", DEAR)
def test_many_dear_requests_at_once_stay_within_the_plan(server: Server, post: Post, name: str) -> None:
    """Sampled every millisecond, against the plans of both models."""
    if read_memory(server.process.pid) is None:
        pytest.skip("this system does not tell anonymous memory")
    path, body = DEAR[name]
    most, is_over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_over.wait(0.001):
            used = read_memory(server.process.pid)
            most = max(most, used.anonymous_bytes if used else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as clients:
        statuses = {status for status, _ in clients.map(lambda _: post(path, body.encode()), range(8))}
    is_over.set()
    watcher.join()
    assert statuses <= {400, 413, 429}
    assert most <= planned_bytes(post)


def planned_bytes(post: Post) -> int:
    """Anonymous bytes of both plans, whose process is the same."""
    first, second = (post(f"/plan?model={model}", b"", "GET")[1]["plan"] for model in ("tiny", "tools"))
    parts = [first["process"], *(level["footprint"] for plan in (first, second) for level in plan["levels"])]
    anonymous = sum(part["anonymous"] for footprint in parts for part in footprint["parts"])
    return int(anonymous + first["margin_bytes"])


def test_requests_that_wait_share_their_room_until_their_answers_end() -> None:
    room = RequestRoom(100, "wait", "send less")
    first = room.take(60)
    with pytest.raises(ApiError, match=r"wait take 60 of 100 bytes, and this one needs 50; try again") as full:
        room.take(50)
    assert (full.value.status, full.value.headers) == (429, {"retry-after": "5"})
    with pytest.raises(ApiError, match="takes 101 bytes, and requests that wait have 100 together; send less") as never:
        room.take(101)
    assert never.value.status == 413
    with room.take(40):
        first.release()
        first.release()
        assert room.taken == 40
    assert room.taken == 0


def test_nothing_is_kept_of_requests_that_ended(server: Server, post: Post) -> None:
    """Their room is free again: more than fit at once come one after the other, answered and refused."""
    answered = json.dumps({"prompt": "x", "max_tokens": 1, "user": "y" * 900_000}).encode()
    refused = json.dumps({"prompt": "x" * 900_000}).encode()
    for _ in range(6):
        assert post("/completions", answered)[0] == 200
        assert post("/completions", refused)[0] == 413


def test_a_parsed_body_is_counted_by_its_values_and_characters() -> None:
    assert parsed_bytes(b'{"prompt":"x"}') == 14 + 190
    assert parsed_bytes('{"prompt":"é"}'.encode()) == 4 * 15 + 190
    assert parsed_bytes(b'{"prompt":[1,2]}') == 16 + 3 * 190


def test_a_context_always_has_room_for_its_texts() -> None:
    """Eight bytes a token, whatever bodies may have."""
    for context in (2, 4096, 131_072):
        for body in (1_000, 1_000_000):
            assert RequestMemory(body, context).longest_text >= 8 * context
