"""Turns can be taken back, edited and answered again, as if what was there before had never been said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from export.untrusted import UntrustedError
from memory import Request
from runtime.conversation import Conversation, NoTurnError
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine, TextChunk
from runtime.errors import ContextFullError
from runtime.sessions.conversation_record import ConversationRecord, Overflow, keep_settings, parse_conversation
from runtime.speculation.request import PLAIN, Speculation
from runtime.text.template_data import NO_INPUTS, ChatTemplateError
from runtime.text.token_history import History
from tests.runtime.text.pair_tokenizer import pair_tokenizer

SAMPLED = SamplingParams(temperature=1.5, seed=3)
GREEDY = SamplingParams()
SYSTEM = "Be kind."
CONTEXT = 160


@pytest.fixture(scope="module")
def small(random_bundle: Path) -> Iterator[Engine]:
    """The random bundle with a context that a few turns fill."""
    with Engine.open(random_bundle, Request(context=CONTEXT, threads=1, nodes=4)) as engine:
        yield engine


def begin(engine: Engine, sampling: SamplingParams = GREEDY, system: str | None = None) -> Conversation:
    return Conversation(engine, system, max_new_tokens=12, sampling=sampling, speculation=PLAIN)


def text_of(chunks: list[TextChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def read_afresh(chunks: list[TextChunk]) -> int:
    """The tokens of the prompt that were computed, but for the last, which always is."""
    return chunks[-1].stats.prompt_tokens - 1 - chunks[-1].stats.cached_tokens


@pytest.mark.parametrize("speculation", [PLAIN, Speculation("near", 4)], ids=str)
def test_a_greedy_answer_is_regenerated_word_for_word(engine: Engine, speculation: Speculation) -> None:
    conversation = Conversation(engine, max_new_tokens=12, speculation=speculation)
    list(conversation.say("one"))
    first, messages = list(conversation.say("two")), conversation.messages
    again = list(conversation.regenerate())
    assert text_of(again) == text_of(first)
    assert conversation.messages == messages
    assert read_afresh(again) == 0


def test_a_sampled_answer_is_regenerated_with_the_next_seeds(engine: Engine) -> None:
    conversation = begin(engine, SAMPLED)
    answers = [text_of(list(conversation.say("one")))]
    answers += [text_of(list(conversation.regenerate())) for _ in range(2)]
    assert len(set(answers)) == 3
    assert len(conversation.messages) == 2
    for number, expected in enumerate(answers):
        seeded = SamplingParams(temperature=SAMPLED.temperature, seed=SAMPLED.seed + number)
        assert text_of(list(begin(engine, seeded).say("one"))) == expected


@pytest.mark.parametrize("times", [0, 2])
def test_a_saved_conversation_is_regenerated_with_the_seed_after_its_own(
    engine: Engine, tmp_path: Path, times: int
) -> None:
    conversation = begin(engine, SAMPLED)
    list(conversation.say("one"))
    for _ in range(times):
        list(conversation.regenerate())
    conversation.save(tmp_path / "session")
    restored = Conversation.restore(engine, tmp_path / "session")
    again = text_of(list(restored.regenerate()))
    seeded = SamplingParams(temperature=SAMPLED.temperature, seed=SAMPLED.seed + times + 1)
    assert again == text_of(list(begin(engine, seeded).say("one")))
    assert len(restored.messages) == 2


@pytest.mark.parametrize("attempt", [-1, True, "1", 1.0, None, 2**63, []], ids=repr)
def test_a_number_of_answers_that_is_none_is_refused(attempt: object) -> None:
    data = ConversationRecord((), (), Overflow("stop", 0, 0), keep_settings({}), NO_INPUTS, 7).dump()
    assert parse_conversation(data).attempt == 7
    with pytest.raises(UntrustedError, match="number of answers"):
        parse_conversation({**data, "attempt": attempt})


def test_the_seed_after_the_largest_is_the_smallest(engine: Engine) -> None:
    conversation = begin(engine, SamplingParams(temperature=1.5, seed=2**64 - 1))
    list(conversation.say("one"))
    again = text_of(list(conversation.regenerate()))
    assert again == text_of(list(begin(engine, SamplingParams(temperature=1.5, seed=0)).say("one")))


def test_the_seed_of_later_answers_is_the_one_that_was_asked_for(engine: Engine) -> None:
    conversation = begin(engine, SAMPLED)
    list(conversation.say("one"))
    list(conversation.regenerate())
    other = begin(engine, SAMPLED)
    other.messages = conversation.messages[:]
    assert text_of(list(conversation.say("two"))) == text_of(list(other.say("two")))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_what_was_taken_back_was_never_said(engine: Engine, sampling: SamplingParams) -> None:
    conversation = begin(engine, sampling, SYSTEM)
    list(conversation.say("one"))
    kept = conversation.messages[:]
    list(conversation.say("two"))
    assert conversation.undo() == {"role": "user", "content": "two"}
    assert conversation.messages == kept
    said = list(conversation.say("three"))
    assert read_afresh(said) < len("<|end|>[user] three<|end|>[assistant] "), "the kept turn was computed again"
    expected = begin(engine, sampling, SYSTEM)
    list(expected.say("one"))
    assert text_of(said) == text_of(list(expected.say("three")))
    for _ in range(2):
        conversation.undo()
    assert conversation.messages == [{"role": "system", "content": SYSTEM}]


def test_an_edited_message_is_answered_as_if_said_at_once(engine: Engine) -> None:
    conversation = begin(engine)
    list(conversation.say("one"))
    list(conversation.say("two"))
    edited = list(conversation.edit("three"))
    expected = begin(engine)
    list(expected.say("one"))
    assert text_of(edited) == text_of(list(expected.say("three")))
    assert conversation.messages == expected.messages
    assert conversation.question["content"] == "three"


@pytest.mark.parametrize("change", ["regenerate", "undo", "question"])
def test_nothing_can_be_changed_before_it_was_said(engine: Engine, change: str) -> None:
    conversation = begin(engine, system=SYSTEM)
    with pytest.raises(NoTurnError, match="nothing was said yet"):
        getattr(conversation, change)()


def test_a_change_that_fails_changes_nothing(small: Engine) -> None:
    conversation = begin(small)
    list(conversation.say("one"))
    messages = conversation.messages[:]
    with pytest.raises(ContextFullError, match="outgrown its context"):
        conversation.edit("x" * CONTEXT)
    assert conversation.messages == messages
    conversation.edit("two").close()
    assert conversation.messages == messages, "an answer without a token replaced one"


def test_another_system_message_makes_another_conversation(engine: Engine) -> None:
    conversation = begin(engine, system=SYSTEM)
    list(conversation.say("one"))
    for system in ("Be rude.", None, SYSTEM):
        conversation.change_system(system)
        assert conversation.system == system
        expected = begin(engine, system=system)
        expected.messages += conversation.messages[system is not None :]
        assert text_of(list(conversation.say("on"))) == text_of(list(expected.say("on")))


def test_a_system_message_that_the_template_refuses_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = refusal + "{% for m in messages %}({{ m.content }}){% endfor %}"
    monkeypatch.setattr(engine, "tokenizer", pair_tokenizer(template))
    conversation = begin(engine)
    with pytest.raises(ChatTemplateError, match="no system"):
        conversation.change_system(SYSTEM)
    assert conversation.system is None


@pytest.mark.parametrize("policy", ["drop", "slide"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_turn_in_which_the_context_overflowed_is_taken_back_whole(
    small: Engine, policy: str, sampling: SamplingParams
) -> None:
    """What was dropped for an answer comes back with ``undo``; saying the same again gives the same text."""
    notes: list[str] = []
    settings = {"max_new_tokens": 60, "sampling": sampling, "speculation": PLAIN, "ignore_eos": True}
    conversation = Conversation(small, SYSTEM, policy, notes.append, **settings)
    while not notes:
        before = conversation.messages[:]
        answer = text_of(list(conversation.say("go on")))
    conversation.undo()
    assert conversation.messages == before
    assert text_of(list(conversation.say("go on"))) == answer


def test_an_answer_without_text_is_no_answer_once_it_is_taken_back() -> None:
    tokenizer = pair_tokenizer()
    history = History(tokenizer)
    prompt = tokenizer.render_chat([{"role": "user", "content": "a"}])
    tokens = history.encode(prompt)
    history.add_answer([*tokenizer.encode("<|end|>", add_special_tokens=False)], "", False)
    assert history.encode(prompt) == tokens
