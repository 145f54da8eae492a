"""A restored session continues bit for bit, in another engine, and reads nothing again."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from export.manifest import FILE_NAME, PocketspecError
from memory import Request
from runtime.constraints.matcher import Matcher
from runtime.constraints.request import Regex
from runtime.conversation import Conversation
from runtime.decoding.context import shared_prefix
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.sessions.errors import OtherSessionError, SessionError
from runtime.sessions.held import held_levels
from runtime.speculation.request import PLAIN, Speculation
from tests.runtime.sessions.rows_read import rows_read
from tests.runtime.sessions.talk import CASES, NATIVE, SAMPLED, STACKED, forget, tokens_of
from tests.runtime.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def other(stacked_bundle: Path) -> Iterator[Engine]:
    """Another engine of the same bundle: nothing but a file is between the two."""
    with Engine.open(stacked_bundle, STACKED) as engine:
        yield engine


def talk(conversation: Conversation, *texts: str) -> list[list[int]]:
    return [tokens_of(list(conversation.say(text))) for text in texts]


@pytest.mark.parametrize(("sampling", "speculation"), CASES, ids=str)
def test_a_conversation_goes_on_in_another_engine(
    stacked: Engine, other: Engine, tmp_path: Path, sampling: SamplingParams, speculation: Speculation
) -> None:
    settings: dict[str, Any] = {"sampling": sampling, "speculation": speculation, "max_new_tokens": 20}
    forget(stacked)
    whole = Conversation(stacked, "Be brief.", ignore_eos=True, **settings)
    talk(whole, "Hello", "And you?")
    whole.save(tmp_path / "session")
    expected = talk(whole, "Go on", "More")
    forget(other)
    restored = Conversation.restore(other, tmp_path / "session")
    with rows_read(other.target) as read:
        first = list(restored.say("Go on"))
    assert tokens_of(first) == expected[0]
    assert first[-1].stats.cached_tokens + read[0] == first[-1].stats.prompt_tokens - 1
    assert read[0] < len("Go on") + 30 < first[-1].stats.cached_tokens, "the prompt was read again"
    assert talk(restored, "More") == expected[1:]
    assert restored.messages == whole.messages


@pytest.fixture(scope="module")
def short(stacked_bundle: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two engines of a short context."""
    request = replace(STACKED, context=160, nodes=4)
    with Engine.open(stacked_bundle, request) as engine, Engine.open(stacked_bundle, request) as other:
        yield engine, other


@pytest.mark.parametrize("when_full", ["drop", "slide"])
@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_a_conversation_goes_on_after_dropped_turns(
    short: tuple[Engine, Engine], tmp_path: Path, when_full: str, sampling: SamplingParams
) -> None:
    stacked, other = short
    notes: list[str] = []
    speculation = Speculation("near", 4)
    settings: dict[str, Any] = {"sampling": sampling, "speculation": speculation, "max_new_tokens": 12}
    whole = Conversation(stacked, "Be brief.", when_full, notes.append, ignore_eos=True, **settings)
    while not notes:
        talk(whole, "Tell me more")
    talk(whole, "Yes")
    whole.save(tmp_path / "session")
    expected = [list(whole.say("And then")) for _ in range(6)]
    assert len(notes) > 1, "nothing was dropped after the session was saved"
    forget(other)
    restored = Conversation.restore(other, tmp_path / "session")
    answers = [list(restored.say("And then")) for _ in range(6)]
    assert [tokens_of(chunks) for chunks in answers] == [tokens_of(chunks) for chunks in expected]
    read = [(chunks[-1].stats.prompt_tokens, chunks[-1].stats.cached_tokens) for chunks in answers]
    assert read == [(chunks[-1].stats.prompt_tokens, chunks[-1].stats.cached_tokens) for chunks in expected]


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=NATIVE), "portable"])
@pytest.mark.parametrize("kv_type", ["fp32", "fp16", "int8", "int4"])
def test_every_type_of_cache_is_saved_bit_for_bit(
    tiny_bundle_int4: Path, tmp_path: Path, kv_type: str, kernels: Any
) -> None:
    request = Request(threads=1, kv_type=kv_type, nodes=4)
    with Engine.open(tiny_bundle_int4, request, kernels=kernels) as engine:
        list(engine.generate("Tell me", max_new_tokens=12, ignore_eos=True))
        engine.save(tmp_path / "session")
        target, tokens = engine.manifest.target.name, engine.snapshot().tokens.tolist()
        held = [array[0, :, : engine.target.cache.length].copy() for array in engine.target.cache.arrays]
        prompt = [*tokens, 5, 6, 7]
        whole = tokens_of(list(engine.generate(prompt, max_new_tokens=12, ignore_eos=True)))
        saved = load_file(tmp_path / "session")
        assert saved["tokens"].tolist() == tokens
        assert saved[f"{target}/tokens"].tolist() == tokens[:-1]
        for number, array in enumerate(held):
            np.testing.assert_array_equal(saved[f"{target}/kv.{number}"].view(np.uint8), array.view(np.uint8))
        forget(engine)
        assert engine.restore(tmp_path / "session").tokens == tuple(tokens)
        chunks = list(engine.generate(prompt, max_new_tokens=12, ignore_eos=True))
        assert tokens_of(chunks) == whole
        assert chunks[-1].stats.cached_tokens == len(tokens) - 1


def test_the_place_in_a_conversation_and_the_sampling_are_saved(stacked: Engine, other: Engine, tmp_path: Path) -> None:
    list(stacked.generate("Hello", sampling=SAMPLED, max_new_tokens=4, left_out=100))
    stacked.save(tmp_path / "session")
    session = other.restore(tmp_path / "session")
    assert (session.left_out, session.sampling) == (100, SAMPLED)
    assert other.snapshot().left_out == 100
    other.save(tmp_path / "again")
    assert stacked.restore(tmp_path / "again").sampling == SAMPLED


def test_a_drafter_keeps_room_for_a_draft(stacked: Engine) -> None:
    target, *drafters = held_levels(stacked._models, stacked.bundle, stacked.manifest)
    for level, reserve in ((target, 0), *((level, level.model.max_rows) for level in drafters)):
        room = level.model.cache.capacity - reserve
        assert level.fault(level.identity, room) is None
        assert "there is room for" in (level.fault(level.identity, room + 1) or "")


def test_what_drafters_have_learnt_is_saved(stacked: Engine, other: Engine, tmp_path: Path) -> None:
    learnt = stacked._models.speculator.calibrations["near"]
    learnt.observe(0.9, True)
    stacked.save(tmp_path / "session")
    for calibration in other._models.speculator.calibrations.values():
        calibration.learn([0.0] * 12, [0.0] * 12)
    other.restore(tmp_path / "session")
    assert other._models.speculator.calibrations["near"].observed() == learnt.observed()


def test_the_file_is_its_users_alone(stacked: Engine, tmp_path: Path) -> None:
    stacked.save(tmp_path / "session")
    assert [path.name for path in tmp_path.iterdir()] == ["session"]
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "session").stat().st_mode) == 0o600


def spoken(engine: Engine, path: Path) -> Conversation:
    conversation = Conversation(engine, "Be brief.", max_new_tokens=20, ignore_eos=True)
    talk(conversation, "Hello there")
    conversation.save(path)
    return conversation


def test_another_kv_type_is_refused_or_read_again(tiny_bundle_int4: Path, tmp_path: Path) -> None:
    with Engine.open(tiny_bundle_int4, Request(threads=1, kv_type="fp16", nodes=4)) as engine:
        saved = spoken(engine, tmp_path / "session")
    with Engine.open(tiny_bundle_int4, Request(threads=1, kv_type="fp32", nodes=4)) as engine:
        with pytest.raises(OtherSessionError, match=r"fp16, and fp32 here.*reread"):
            Conversation.restore(engine, tmp_path / "session")
        assert engine.target.cache.length == 0
        notes: list[str] = []
        restored = Conversation.restore(engine, tmp_path / "session", reread=True, notify=notes.append)
        assert "fp32" in notes[0]
        assert restored.messages == saved.messages
        chunks = list(restored.say("Go on"))
        assert chunks[-1].stats.cached_tokens == 0
        session = engine.restore(tmp_path / "session", reread=True)
        assert session.reread is not None
        assert engine.encode(session.tokens) == list(session.tokens)


def test_another_model_is_refused_or_its_messages_read_again(
    stacked: Engine, tmp_path: Path, random_bundle: Path
) -> None:
    saved = spoken(stacked, tmp_path / "session")
    bundle = shutil.copytree(random_bundle, tmp_path / "bundle")
    text = (bundle / FILE_NAME).read_text().replace('"sha256": "' + "0" * 64, '"sha256": "' + "1" * 64)
    (bundle / FILE_NAME).write_text(text)
    with Engine.open(bundle, Request(threads=1, nodes=0)) as engine:
        with pytest.raises(OtherSessionError, match="another tokenizer"):
            Conversation.restore(engine, tmp_path / "session")
        restored = Conversation.restore(engine, tmp_path / "session", reread=True)
        assert restored.messages == saved.messages
        assert list(restored.say("Go on"))
        stacked.save(tmp_path / "tokens")
        with pytest.raises(OtherSessionError, match="begin a new one"):
            engine.restore(tmp_path / "tokens", reread=True)


def test_a_smaller_plan_is_refused_or_drops_turns(stacked: Engine, random_bundle: Path, tmp_path: Path) -> None:
    conversation = Conversation(stacked, max_new_tokens=30, ignore_eos=True)
    talk(conversation, "One", "Two", "Three")
    conversation.save(tmp_path / "session")
    with Engine.open(random_bundle, Request(threads=1, context=96, nodes=2)) as small:
        with pytest.raises(OtherSessionError, match="room for"):
            Conversation.restore(small, tmp_path / "session")
        restored = Conversation.restore(small, tmp_path / "session", reread=True, when_full="drop")
        assert list(restored.say("Four"))
        with pytest.raises(PocketspecError, match="outgrown"):
            list(Conversation.restore(small, tmp_path / "session", reread=True).say("Four"))


def test_a_drafter_that_is_not_open_is_left_out(stacked: Engine, stacked_bundle: Path, tmp_path: Path) -> None:
    conversation = spoken(stacked, tmp_path / "session")
    expected = talk(conversation, "Go on")
    with Engine.open(stacked_bundle, Request(threads=1, nodes=0, drafters=())) as engine:
        restored = Conversation.restore(engine, tmp_path / "session", speculation=PLAIN)
        assert talk(restored, "Go on") == expected


def test_settings_that_are_given_stand_in_place_of_saved_ones(stacked: Engine, tmp_path: Path) -> None:
    spoken(stacked, tmp_path / "session")
    restored = Conversation.restore(stacked, tmp_path / "session", max_new_tokens=3)
    assert len(talk(restored, "Go on")[0]) == 3


def test_the_constraint_of_an_answer_that_is_over_has_no_say(
    stacked: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(stacked.generate("Hello there, who is it?", max_new_tokens=8, ignore_eos=True))
    stacked.save(tmp_path / "session")
    list(stacked.generate("Hello", constraint=Regex("[a-z]{4}"), max_new_tokens=8))
    for name in ("append", "take_back"):
        monkeypatch.setattr(Matcher, name, lambda self, tokens: pytest.fail("it was asked"))
    session = stacked.restore(tmp_path / "session")
    assert stacked.snapshot().tokens.tolist() == list(session.tokens)


def test_stop_strings_are_kept_whatever_is_in_them(stacked: Engine, tmp_path: Path) -> None:
    stops = ["\r\n", "\x1b[0m", "end" * 5000]
    conversation = Conversation(stacked, stop=stops, max_new_tokens=4)
    talk(conversation, "Hello")
    conversation.save(tmp_path / "session")
    assert Conversation.restore(stacked, tmp_path / "session")._settings["stop"] == tuple(stops)


@pytest.mark.parametrize("when_full", ["stop", "drop", "slide"])
def test_a_conversation_saves_nothing_of_another_one(
    short: tuple[Engine, Engine], tmp_path: Path, when_full: str
) -> None:
    engine, other = short
    mine = Conversation(engine, "Be brief.", when_full, max_new_tokens=8, speculation=Speculation("near", 4))
    talk(mine, *["Hello there"] * (1 if when_full == "stop" else 5))
    mine.save(tmp_path / "own")
    own = load_file(tmp_path / "own")
    yours = Conversation(engine, "Be brief.", max_new_tokens=8, speculation=Speculation("near", 4))
    talk(yours, "My secret is 42")
    held = engine.snapshot()
    mine.save(tmp_path / "session")
    saved = load_file(tmp_path / "session")
    shared = shared_prefix(own["tokens"], held.tokens)
    assert saved["tokens"].tolist() == own["tokens"][:shared].tolist()
    for name in saved:
        if name.endswith("/tokens"):
            assert saved[name].tolist() == own["tokens"][: len(saved[name])].tolist()
    assert engine.snapshot().tokens.tolist() == held.tokens.tolist()
    expected = talk(mine, "Go on")
    forget(other)
    assert talk(Conversation.restore(other, tmp_path / "session"), "Go on") == expected


def test_a_session_of_an_engine_alone_holds_no_conversation(stacked: Engine, tmp_path: Path) -> None:
    stacked.save(tmp_path / "session")
    with pytest.raises(SessionError, match="no conversation"):
        Conversation.restore(stacked, tmp_path / "session")


def test_kernels_of_another_kind_are_others(tmp_path: Path) -> None:
    """The identity of the target of a bundle, in words."""
    bundle = write_tiny_bundle(tmp_path / "bundle", drafters=False)
    with Engine.open(bundle, Request(threads=1, nodes=0), kernels="portable") as engine:
        list(engine.generate("Hello", max_new_tokens=3))
        engine.save(tmp_path / "session")
    engine = Engine.open(bundle, Request(threads=2, nodes=0), kernels="portable")
    with engine, pytest.raises(OtherSessionError, match="other kernels"):
        engine.restore(tmp_path / "session")
