"""Session files of strangers: each is restored or refused in one line, and the engine goes on in any case.

``POCKETSPEC_FUZZ_SECONDS`` says how long the slow form runs; 20 minutes if it is not set.
"""

from __future__ import annotations

import json
import os
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.manifest import PocketspecError
from memory import Request
from runtime.conversation import Conversation
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.sessions.errors import SessionError
from runtime.speculation.request import Speculation
from tests.runtime.sessions.damage import damaged, fields, forge, forged, split

FUZZ_SECONDS = float(os.environ.get("POCKETSPEC_FUZZ_SECONDS", "1200"))


@pytest.fixture(scope="module")
def small(random_bundle: Path) -> Iterator[Engine]:
    with Engine.open(random_bundle, Request(threads=1, context=96, nodes=2)) as engine:
        yield engine


@pytest.fixture(scope="module")
def saved(small: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file, with a conversation in it."""
    sampling, speculation = SamplingParams(temperature=0.5, seed=3), Speculation("near", 2)
    conversation = Conversation(
        small, "Hi", "slide", sampling=sampling, speculation=speculation, max_new_tokens=4, stop=["#"]
    )
    list(conversation.say("Yo"))
    path = tmp_path_factory.mktemp("saved") / "session"
    conversation.save(path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forged") / "session"


def check(engine: Engine, place: Path, data: bytes) -> bool:
    """Whether ``data`` is restored. It must be, or be refused in one line; the engine answers in any case."""
    place.write_bytes(data)
    try:
        conversation = Conversation.restore(engine, place)
    except PocketspecError as error:
        check_line(error)
        is_restored = False
    else:
        is_restored = True
        try:
            list(conversation.say("A"))
        except PocketspecError as error:  # settings or messages that are sound in themselves, and no use here
            check_line(error)
    chunks = list(engine.generate([1, 2, 3], max_new_tokens=2, ignore_eos=True))
    assert sum(len(chunk.step.tokens) for chunk in chunks) == 2
    return is_restored


def check_line(error: BaseException) -> None:
    line = str(error)
    assert line.isprintable(), repr(line)
    assert len(line) < 1000, line


def test_a_sound_file_is_restored(small: Engine, saved: Path, place: Path) -> None:
    assert check(small, place, saved.read_bytes())
    assert forge(*split(saved.read_bytes())) == saved.read_bytes(), "the forger's hash is not the format's"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_damage_is_found(small: Engine, saved: Path, place: Path, random: Random) -> None:
    data = saved.read_bytes()
    changed = damaged(random, data)
    assert check(small, place, changed) == (changed == data)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_forged_files_do_no_harm(small: Engine, saved: Path, place: Path, random: Random) -> None:
    check(small, place, forged(random, saved.read_bytes()))


@pytest.mark.slow
def test_minutes_of_damaged_and_forged_files(small: Engine, saved: Path, place: Path) -> None:
    data, end, seed = saved.read_bytes(), time.monotonic() + FUZZ_SECONDS, 0
    while time.monotonic() < end:
        seed += 1
        try:
            changed = damaged(Random(seed), data)
            assert check(small, place, changed) == (changed == data)
            check(small, place, forged(Random(seed), data))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


def with_header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def forge_changed(data: bytes) -> bytes:
        header, content = split(data)
        change(header)
        return forge(header, content)

    return forge_changed


def swap_arrays(header: dict[str, Any]) -> None:
    header["tiny/kv.0"], header["tokens"] = header["tokens"], header["tiny/kv.0"]


def set_field(*path: str | int, value: Any) -> Callable[[bytes], bytes]:
    def change(header: dict[str, Any]) -> None:
        holder: Any = header
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value

    return with_header(change)


def with_tokens(token: int) -> Callable[[bytes], bytes]:
    """The first committed token is another one."""

    def change(data: bytes) -> bytes:
        header, content = split(data)
        begin = header["tokens"]["data_offsets"][0]
        return forge(header, content[:begin] + token.to_bytes(4, "little", signed=True) + content[begin + 4 :])

    return change


META = ("__metadata__", "session")
BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is cut off"),
    "short": (lambda data: data[:-1], "do not fill"),
    "longer": (lambda data: data + b"\0", "do not fill"),
    "header": (lambda data: (1 << 63).to_bytes(8, "little") + data[8:], "says that its header has 9,223,372,036"),
    "other": (lambda data: b"GGUF" * 100, "says that its header"),
    "newer": (set_field("__metadata__", "version", value="2"), "version '2' of the format.*update pocketspec"),
    "not ours": (set_field("__metadata__", "format", value="pt"), "is no session of pocketspec"),
    "no hash": (lambda data: data.replace(b'"sha256"', b'"sha257"', 1), "its header has no hash"),
    "odd hash": (lambda data: re.sub(rb'("sha256":")[0-9a-f]{6}', rb"\1\\ud800", data), "its header has no hash"),
    "size": (set_field("tokens", "shape", value=[1 << 63]), "of shape"),
    "large": (set_field("tokens", "shape", value=[(1 << 63) - 1]), "do not agree"),
    "place": (set_field("tokens", "data_offsets", value=[0, 1 << 62]), "do not agree"),
    "type": (set_field("tokens", "dtype", value="F32"), "is not .* tokens"),
    "unknown type": (set_field("tokens", "dtype", value="F64"), "of type 'F64'"),
    "swapped": (with_header(swap_arrays), "is not .* tokens"),
    "rows": (set_field(*META, "levels", 0, "rows", value=1 << 31), "is not 2,147,483,648 tokens"),
    "negative": (set_field(*META, "levels", 0, "rows", value=-1), "not within 0 and"),
    "NaN": (set_field(*META, "sampling", "temperature", value=float("nan")), "has NaN for a number"),
    "temperature": (set_field(*META, "sampling", "temperature", value=-1.0), "temperature is -1.0"),
    "kind": (set_field(*META, "levels", 0, "kind", value="recurrent"), "field levels"),
    "vocabulary": (with_tokens(10**6), "tokens outside the vocabulary"),
    "below 0": (with_tokens(-1), "tokens outside the vocabulary"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(small: Engine, saved: Path, place: Path, name: str) -> None:
    change, words = BAD[name]
    place.write_bytes(change(saved.read_bytes()))
    with pytest.raises(SessionError, match=words) as caught:
        small.restore(place)
    check_line(caught.value)
    assert str(place) in str(caught.value)


def test_arrays_of_another_shape_are_not_read(small: Engine, saved: Path, place: Path) -> None:
    """The sizes agree with the file, and not with the cache."""
    header, content = split(saved.read_bytes())
    heads, rows, size = header["tiny/kv.0"]["shape"]
    header["tiny/kv.0"]["shape"] = [size, rows, heads]
    place.write_bytes(forge(header, content))
    before = small.target.cache.tokens.tolist()
    with pytest.raises(SessionError, match="and the cache one of"):
        small.restore(place)
    assert small.target.cache.tokens.tolist() == before, "it was read although its shape is wrong"


def test_a_file_names_no_more_arrays_than_it_has(small: Engine, saved: Path, place: Path) -> None:
    """The names of the arrays of all these levels would take gigabytes."""
    header, content = split(saved.read_bytes())
    levels = header["__metadata__"]["session"]["levels"]
    levels += [{**levels[0], "name": f"level {number}", "arrays": 1 << 16} for number in range(2000)]
    place.write_bytes(forge(header, content))
    with pytest.raises(SessionError, match="arrays, and its levels"):
        small.restore(place)


def test_tokens_that_no_context_holds_are_not_read(small: Engine, saved: Path, place: Path) -> None:
    """A conversation may be read again from its messages; a file of zeros takes no room on a disk, and would here."""
    header, content = split(saved.read_bytes())
    begin, end = header["tokens"]["data_offsets"]
    assert begin == 0
    many, level = 1 << 22, header["__metadata__"]["session"]["levels"][0]
    header["__metadata__"]["session"]["tokens"], level["identity"]["kv_type"] = many, "int8"
    header["tokens"] = {"dtype": "I32", "shape": [many], "data_offsets": [0, 4 * many]}
    for name, entry in header.items():
        if name not in ("tokens", "__metadata__"):
            entry["data_offsets"] = [each + 4 * many - end for each in entry["data_offsets"]]
    place.write_bytes(forge(header, bytes(4 * many) + content[end:]))
    tracemalloc.start()
    try:
        assert Conversation.restore(small, place, reread=True).messages
        assert tracemalloc.get_traced_memory()[1] < 4 * many
        assert small.restore(place, reread=True).tokens == ()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["missing", "folder", "link"])
def test_what_is_no_file_is_refused(small: Engine, saved: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "session"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(saved)
    words = {"missing": "there is no session", "folder": "is a folder", "link": "is a link"}[kind]
    with pytest.raises(SessionError, match=words):
        small.restore(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_does_not_hold_the_reader_up(small: Engine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "session")
    with pytest.raises(SessionError, match="is no regular file"):
        small.restore(tmp_path / "session")


def test_messages_that_are_no_data_are_not_saved(small: Engine, tmp_path: Path) -> None:
    conversation = Conversation(small, max_new_tokens=2)
    conversation.messages = [{"role": "system", "content": object()}]
    with pytest.raises(SessionError, match="must be plain JSON data"):
        conversation.save(tmp_path / "session")
    assert not list(tmp_path.iterdir())


def test_every_field_of_a_header_can_be_changed(saved: Path) -> None:
    """The forger reaches what it should reach."""
    header, _ = split(saved.read_bytes())
    keys = {key for _, key in fields(header)}
    assert {"dtype", "rows", "kernels", "temperature", "messages", "tokens", "first", "drafter"} <= keys
    json.dumps(header)
