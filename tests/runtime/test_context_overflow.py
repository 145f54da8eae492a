"""A text that outgrows its context: nothing changes until it does, and then all is as if the kept text were all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from export.manifest import PocketspecError
from memory import Request
from runtime.__main__ import main
from runtime.context_overflow import Drop, Slide, head_length, slide
from runtime.conversation import Conversation
from runtime.decoding.sampling import SamplingParams, uniform
from runtime.engine import Engine, TextChunk
from runtime.errors import ContextFullError
from runtime.speculation.request import PLAIN, Speculation
from runtime.text.chat_template import ChatTemplate
from runtime.text.token_history import History
from runtime.text.tokenizer import Tokenizer

CONTEXT = 160
SYSTEM = "Be kind."
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.9, top_p=0.95, seed=7)
SPECULATIONS = [
    PLAIN,
    Speculation("near", 4),
    Speculation("near", 6, "tree"),
    Speculation("suffix", 6),
    Speculation("suffix+near", 4),
]


@pytest.fixture(scope="module")
def small(random_bundle: Path) -> Iterator[Engine]:
    """The random bundle with a short context."""
    with Engine.open(random_bundle, Request(context=CONTEXT, threads=1, shape="tree", nodes=8)) as engine:
        yield engine


def tokens_of(chunks: list[TextChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.step.tokens]


def answer(engine: Engine, tokens: list[int], count: int, **settings: Any) -> list[int]:
    """``count`` tokens of an answer that no end token ends."""
    return tokens_of(list(engine.generate(tokens, max_new_tokens=count, ignore_eos=True, **settings)))


def text_of(chunks: list[TextChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def talk(conversation: Conversation, turns: int) -> list[list[TextChunk]]:
    return [list(conversation.say(f"line {turn}")) for turn in range(turns)]


@pytest.mark.parametrize(
    ("speculation", "sampling"),
    [
        *((speculation, SAMPLED) for speculation in SPECULATIONS),
        (SPECULATIONS[-1], GREEDY),
        *(pytest.param(speculation, GREEDY, marks=pytest.mark.slow) for speculation in SPECULATIONS[:-1]),
    ],
    ids=str,
)
def test_a_window_slides_over_a_long_answer(small: Engine, speculation: Speculation, sampling: SamplingParams) -> None:
    """Until the context is full the answer is the plain one, and then that of a fresh prompt of the kept text.

    The random numbers go on where they were.
    """
    prompt, count = small.encode("Hello there", raw=True), 2 * CONTEXT
    whole = answer(small, prompt, count, when_full="slide", speculation=speculation, sampling=sampling)
    expected: list[int] = []
    text = prompt
    while len(expected) < count:
        left_out = len(prompt) + len(expected) - len(text)
        settings = {"sampling": sampling, "speculation": PLAIN, "left_out": left_out}
        part = answer(small, text, min(CONTEXT - len(text), count - len(expected)), **settings)
        expected += part
        text = slide([*text, *part], CONTEXT)
    assert whole == expected
    assert text[:4] == prompt[:4]


def places_drawn(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> list[int]:
    """Where in the conversation the tokens stand that ``run`` draws."""
    places: list[int] = []

    def note(seed: int, position: int, *rest: int) -> float:
        places.append(position)
        return uniform(seed, position, *rest)

    monkeypatch.setattr("runtime.decoding.acceptance.sample_and_match.uniform", note)
    run()
    return places


def test_no_random_number_is_drawn_twice(small: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = small.encode("Hello there", raw=True)
    settings = {"when_full": "slide", "sampling": SAMPLED, "speculation": PLAIN}
    places = places_drawn(monkeypatch, lambda: answer(small, prompt, 300, **settings))
    assert places == list(range(len(prompt), len(prompt) + 300))
    places = places_drawn(monkeypatch, lambda: answer(small, [1] * 300, 9, **settings))
    assert places == list(range(300, 309)), "a prompt that is cut before it is read counts as a whole"


@pytest.mark.parametrize("policy", ["drop", "slide"])
def test_no_random_number_is_drawn_twice_in_a_conversation(
    small: Engine, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    notes: list[str] = []
    settings = {"max_new_tokens": 60, "sampling": SAMPLED, "speculation": PLAIN, "ignore_eos": True}
    conversation = Conversation(small, SYSTEM, policy, notes.append, **settings)
    places = places_drawn(monkeypatch, lambda: talk(conversation, 6))
    assert len(places) == 6 * 60
    assert all(later > earlier for earlier, later in pairwise(places))
    assert len(notes) > 2


def test_what_an_answer_ends_with_is_counted_from_its_beginning(small: Engine) -> None:
    prompt = small.encode("Hello there", raw=True)
    chunks = list(small.generate(prompt, raw=True, when_full="slide", max_new_tokens=250, ignore_eos=True))
    assert [chunk.step.finish for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1].stats.tokens == 250
    seam = CONTEXT - len(prompt)
    stop = text_of(chunks)[seam - 2 : seam + 2]
    stopped = list(
        small.generate(prompt, raw=True, when_full="slide", max_new_tokens=250, ignore_eos=True, stop=[stop])
    )
    assert text_of(stopped) == text_of(chunks)[: text_of(chunks).index(stop)]
    assert stopped[-1].step.finish == "stop"


def test_a_prompt_that_is_too_long_is_slid_first(small: Engine) -> None:
    prompt = [token % 90 for token in range(CONTEXT + 40)]
    with pytest.raises(ContextFullError, match="a prompt of 200 tokens"):
        small.generate(prompt)
    assert answer(small, prompt, 9, when_full="slide") == answer(small, slide(prompt, CONTEXT), 9)


@pytest.mark.parametrize("policy", ["stop", "drop", "slide"])
def test_a_conversation_that_fits_is_the_same_with_every_policy(small: Engine, policy: str) -> None:
    notes: list[str] = []
    conversation = Conversation(small, SYSTEM, policy, notes.append, max_new_tokens=12)
    tokens = [tokens_of(turn) for turn in talk(conversation, 3)]
    assert tokens == [tokens_of(turn) for turn in talk(Conversation(small, SYSTEM, max_new_tokens=12), 3)]
    assert notes == []


def test_stop_says_what_could_be_done(small: Engine) -> None:
    notes: list[str] = []
    conversation = Conversation(small, SYSTEM, notify=notes.append)
    assert next(reversed(list(conversation.say("fill it")))).step.finish == "context"
    assert notes == [
        "the context of 160 tokens is full, so the answer ends here: begin a new conversation, open the bundle with a"
        " larger context, or choose --when-full drop or slide"
    ]
    with pytest.raises(ContextFullError, match="has outgrown its context of 160: begin a new one, open the bundle"):
        conversation.say("more")


def test_dropped_turns_leave_a_fresh_conversation(small: Engine) -> None:
    notes: list[str] = []
    conversation = Conversation(small, SYSTEM, "drop", notes.append, max_new_tokens=12, speculation=PLAIN)
    for turn in range(8):
        said = conversation.messages[:]
        tokens = tokens_of(list(conversation.say(f"line {turn}")))
        if notes:
            break
    kept = conversation.messages[:-1]
    assert kept == [said[0], *said[len(said) + 2 - len(kept) :], {"role": "user", "content": f"line {turn}"}]
    dropped = (len(said) + 1 - len(kept)) // 2
    prompt = small.tokenizer.encode_chat(kept)
    told = f"dropped the oldest {dropped} turns; {len(prompt)} are read again"
    assert notes == [f"the conversation outgrew its context of 160 tokens: {told}"]
    assert len(prompt) <= CONTEXT * 3 // 4
    assert tokens == answer(small, prompt, 12)
    later = list(conversation.say("on"))
    assert len(notes) == 1
    assert later[-1].stats.cached_tokens == len(prompt) + 12 - 1


def test_turns_are_dropped_in_the_middle_of_an_answer(small: Engine) -> None:
    notes: list[str] = []
    conversation = Conversation(small, SYSTEM, "drop", notes.append, max_new_tokens=12, ignore_eos=True)
    talk(conversation, 2)
    before = small.encode([*conversation.messages, {"role": "user", "content": "go on"}])
    conversation._settings["max_new_tokens"] = 60
    tokens = tokens_of(list(conversation.say("go on")))
    first = CONTEXT - len(before)
    assert 0 < first < 60, "the context must be full before the answer ends"
    assert len(notes) == 1
    kept = small.tokenizer.encode_chat(conversation.messages[:-1])
    assert tokens[:first] == answer(small, before, first)
    assert tokens[first:] == answer(small, [*kept, *tokens[:first]], 60 - first)


def test_turns_are_dropped_again_in_the_same_answer(small: Engine) -> None:
    tokenizer = small.tokenizer
    policy = Drop(tokenizer, History(tokenizer), lambda line: None)
    messages: list[Any] = [{"role": role, "content": "x"} for role in ["user", "assistant"] * 4][:-1]
    tokens, said = policy.prompt(messages, CONTEXT), []
    for most in (5, 1):
        new = [most] * (CONTEXT - len(tokens))
        said += new
        tokens = policy.refit([*tokens, *new], CONTEXT) or []
        assert len(messages) <= most
        assert tokens == [*tokenizer.encode_chat(messages), *said]


def test_without_a_turn_to_drop_the_answer_or_the_conversation_ends(small: Engine) -> None:
    notes: list[str] = []
    conversation = Conversation(small, SYSTEM, "drop", notes.append)
    chunks = list(conversation.say("fill it"))
    assert chunks[-1].step.finish == "context"
    assert notes == ["the context of 160 tokens is full and no turn is left to drop: the answer ends here"]
    with pytest.raises(ContextFullError, match="no turn is left to drop; say less at a time"):
        conversation.say("x" * CONTEXT)


@pytest.mark.parametrize("speculation", SPECULATIONS, ids=str)
def test_a_window_slides_over_a_conversation(small: Engine, speculation: Speculation) -> None:
    """At prompts and in answers; every turn's tokens are those of the text that the cache holds, read afresh."""
    notes: list[str] = []
    conversation = Conversation(small, SYSTEM, "slide", notes.append, max_new_tokens=30, speculation=speculation)
    head = small.tokenizer.encode("[system] Be kind.<|end|>[user] ", add_special_tokens=False)
    total = len(head)
    for turn in range(12):
        num_notes = len(notes)
        chunks = list(conversation.say(f"line {turn}"))
        tokens, held = tokens_of(chunks), small.target.cache.tokens.tolist()
        assert held[: len(head)] == head
        last = len(held) + 1 - CONTEXT // 2 if len(notes) > num_notes else len(tokens)
        fresh = answer(small, [*held, tokens[-1]][:-last], last, speculation=PLAIN) if last > 0 else []
        assert tokens[-last:] == fresh
        total += len(small.encode(f"line {turn}")) + len(tokens)
    assert 3 <= len(notes) <= 1 + (total - CONTEXT) // (CONTEXT // 2)
    assert notes[0].endswith(f"tokens behind the first {len(head)}; 80 are read again")


def test_a_long_head_leaves_room_for_the_latest(small: Engine) -> None:
    tokenizer, notes = small.tokenizer, list[str]()
    policy = Slide(tokenizer, History(tokenizer), notes.append)
    messages = [{"role": "system", "content": "s" * 300}, {"role": "user", "content": "latest words"}]
    tokens = policy.prompt(messages, CONTEXT)
    whole = tokenizer.encode_chat(messages)
    assert tokens == [*whole[:40], *whole[-40:]]
    assert "behind the first 40" in notes[0]


def test_the_head_is_what_comes_before_the_users_words(small: Engine) -> None:
    inner = small.tokenizer
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "words"}]
    assert inner.decode(inner.encode_chat(messages)[: head_length(inner, messages, inner.encode_chat(messages))]) == (
        "[system] S[user] "
    )
    merged = ChatTemplate("{{ messages[0].content }}: {{ messages[1].content }}", {}, "the test's template")
    tokenizer = Tokenizer(inner._inner, merged)
    assert head_length(tokenizer, messages, tokenizer.encode_chat(messages)) == 4  # at least
    messages[0]["content"] = "Be kind to all"
    assert head_length(tokenizer, messages, tokenizer.encode_chat(messages)) == len("Be kind to all: ")


def test_turns_after_the_system_message_are_dropped_whole(small: Engine) -> None:
    roles = ["system", "user", "assistant", "assistant", "user", "assistant", "user"]
    messages: list[Any] = [{"role": role, "content": f"{place} " + "x" * 30} for place, role in enumerate(roles)]
    tokenizer = small.tokenizer
    Drop(tokenizer, History(tokenizer), lambda line: None).prompt(messages, 200)
    assert [message["content"].split()[0] for message in messages] == ["0", "6"]


def test_unknown_policies_are_refused_with_those_there_are(small: Engine) -> None:
    with pytest.raises(PocketspecError, match="no policy 'forget' for a full context; there are: stop, drop, slide"):
        Conversation(small, when_full="forget")
    with pytest.raises(
        PocketspecError, match="no policy 'drop' for a text that fills its context; there are: stop, sl"
    ):
        small.generate("x", when_full="drop")  # type: ignore[arg-type]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([*arguments, "--context", str(CONTEXT), "--threads", "1", "--no-speculation"])
    return code, *capsys.readouterr()


def test_the_command_line_slides(capsys: pytest.CaptureFixture[str], random_bundle: Path, small: Engine) -> None:
    arguments = ("generate", str(random_bundle), "Hello", "--when-full", "slide", "--max-new-tokens", "200")
    code, out, err = run(capsys, *arguments)
    head = len("[user] ")
    assert code == 0
    assert len(out) > CONTEXT - len(small.encode("Hello"))
    assert f"dropped 80 tokens behind the first {head}; 80 are read again" in err
    code, _, err = run(capsys, *arguments, "--raw")
    assert (code, "behind the first 4;" in err) == (0, True)


def test_a_chat_on_the_command_line_drops(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, random_bundle: Path
) -> None:
    for policy, expected in (("drop", 0), ("stop", 2)):
        monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\nthree\nfour\n"))
        code, _, err = run(capsys, "chat", str(random_bundle), "--when-full", policy, "--max-new-tokens", "30")
        assert code == expected
        assert ("dropped the oldest" in err) == (policy == "drop")
    assert "error: the conversation of " in err.splitlines()[-1]
