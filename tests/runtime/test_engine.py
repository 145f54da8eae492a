"""The engine's laws: the same text with every drafter, in every turn, after every cancel; only planned levels open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models

from export.manifest import ManifestError, PocketspecError
from memory import Request
from runtime.conversation import Conversation
from runtime.decoding.draft import tree_limit
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.engine import Engine, TextChunk
from runtime.errors import ContextFullError
from runtime.models.exact_widths import SafeWidths
from runtime.speculation.request import PLAIN, Speculation
from runtime.text.tokenizer import Tokenizer
from tests.runtime.tiny_bundle import END, VOCAB

SPECULATIONS = [
    Speculation(),
    Speculation("near", 1),
    Speculation("near", 6),
    Speculation("near", 7, "tree"),
    Speculation("far", 3),
    Speculation("suffix", 5),
    Speculation("suffix", 8, "tree"),
    Speculation("suffix+near", 4),
]
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=7)


def answer(engine: Engine, prompt: Any = "Hello there", **settings: Any) -> list[TextChunk]:
    return list(engine.generate(prompt, **{"max_new_tokens": 40, **settings}))


def text_of(chunks: list[TextChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def tokens_of(chunks: list[TextChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.step.tokens]


@pytest.mark.parametrize("speculation", SPECULATIONS, ids=str)
@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_every_drafter_gives_the_plain_answer(
    engine: Engine, speculation: Speculation, sampling: SamplingParams
) -> None:
    plain = answer(engine, sampling=sampling, speculation=PLAIN)
    ours = answer(engine, sampling=sampling, speculation=speculation)
    assert tokens_of(ours) == tokens_of(plain)
    assert text_of(ours) == text_of(plain) == engine.tokenizer.decode(tokens_of(plain))


@pytest.mark.parametrize("acceptance", ["block", "recursive"])
def test_other_exact_rules_run(engine: Engine, acceptance: str) -> None:
    speculation = Speculation("near", 4, acceptance=acceptance)
    chunks = answer(engine, sampling=SAMPLED, speculation=speculation, ignore_eos=True)
    assert len(tokens_of(chunks)) == 40
    assert chunks[-1].stats.accepted > 0


def test_recursive_rejection_takes_trees(engine: Engine) -> None:
    speculation = Speculation("near", 6, "tree", "recursive")
    assert len(tokens_of(answer(engine, sampling=SAMPLED, speculation=speculation, ignore_eos=True))) == 40


def test_a_good_drafter_saves_steps(engine: Engine) -> None:
    stats = answer(engine, speculation=Speculation("near", 6))[-1].stats
    assert stats.tokens == 40
    assert stats.steps < 30
    assert stats.accepted - 6 < stats.sources["near"] <= stats.accepted, "the last step's may be cut by the length"
    assert stats.memory is None or stats.memory.anonymous_bytes > 0


def test_by_default_the_scheduler_chooses_and_can_say_why(engine: Engine, plain_bundle: Path) -> None:
    assert tokens_of(answer(engine)) == tokens_of(answer(engine, speculation=PLAIN))
    assert engine.explain() == []  # there was nothing to choose
    chunks = answer(engine)
    explained = {prospect.name: prospect for prospect in engine.explain()}
    assert {"plain", "suffix-chain", "near-chain"} <= set(explained)
    assert sum(prospect.tokens for prospect in explained.values()) > 0
    assert chunks[-1].stats.tokens == 40
    assert all((prospect.realised is None) == (prospect.tokens == 0) for prospect in explained.values())
    with Engine.open(plain_bundle, Request(threads=1)) as alone:
        assert set(answer(alone, "abcabcabcabcabc")[-1].stats.sources) <= {"suffix", "target"}


def test_statistics_so_far_belong_to_their_chunk(engine: Engine) -> None:
    chunks = answer(engine)
    counts = [chunk.stats.tokens for chunk in chunks]
    assert counts == [len(tokens_of(chunks[: i + 1])) for i in range(len(chunks))]
    assert [chunk.stats.finish for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


@pytest.mark.parametrize("speculation", SPECULATIONS, ids=str)
def test_a_stop_string_ends_the_text_before_it(engine: Engine, speculation: Speculation) -> None:
    whole = text_of(answer(engine, speculation=PLAIN))
    stop = whole[17:20]
    chunks = answer(engine, stop=[stop], speculation=speculation)
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].step.finish == "stop"


def test_text_held_back_for_a_stop_string_is_shown_at_the_end(engine: Engine) -> None:
    whole = text_of(answer(engine, speculation=PLAIN))
    chunks = answer(engine, stop=[whole[-3:] + "never"], speculation=PLAIN)
    assert text_of(chunks) == whole
    assert text_of(chunks[:-1]) == whole[:-3]


def test_an_answer_to_a_chat_begins_without_the_space_that_a_continuation_has(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = engine.tokenizer.template
    inner = Inner(models.BPE({f"▁{chr(0x4E00 + token)}": token for token in range(VOCAB)}, []))
    inner.decoder = decoders.Metaspace()
    monkeypatch.setattr(engine, "tokenizer", Tokenizer(inner, template))
    monkeypatch.setattr(engine, "encode", lambda prompt, **settings: [1, 2, 3])
    continued, answered = (text_of(answer(engine, "x", raw=raw)) for raw in (True, False))
    assert continued == " " + answered


@pytest.mark.parametrize("speculation", SPECULATIONS, ids=str)
def test_an_end_token_is_kept_and_not_shown(engine: Engine, speculation: Speculation) -> None:
    plain = answer(engine, speculation=PLAIN)
    end = tokens_of(plain)[11]
    first = tokens_of(plain).index(end)
    steps = list(engine.steps(engine.encode("Hello there"), stop=StopRule(eos=[end]), speculation=speculation))
    assert [token for step in steps for token in step.tokens] == tokens_of(plain)[: first + 1]
    assert steps[-1].finish == "eos"


def test_an_end_token_that_is_written_as_text_is_not_shown_either(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answer(engine, speculation=PLAIN)
    end = tokens_of(plain)[11]
    target = engine.manifest.target
    vocabulary = replace(target.vocabulary, eos_token_ids=(end,))
    manifest = replace(engine.manifest, levels=(replace(target, vocabulary=vocabulary),))
    monkeypatch.setattr(engine, "manifest", manifest)
    assert text_of(answer(engine)) == text_of(plain)[: tokens_of(plain).index(end)]


def test_the_bundles_end_token_ends_an_answer(engine: Engine) -> None:
    """Sampled until it comes: one token in 96 is the end."""
    hot = SamplingParams(temperature=3.0, seed=1)
    chunks = answer(engine, sampling=hot, max_new_tokens=300)
    assert tokens_of(chunks)[-1] == END
    assert chunks[-1].step.finish == "eos"
    assert "<|end|>" not in text_of(chunks)
    num_more = len(tokens_of(chunks)) + 3
    longer = answer(engine, sampling=hot, max_new_tokens=num_more, ignore_eos=True)
    assert len(tokens_of(longer)) == num_more
    assert tokens_of(longer)[: len(tokens_of(chunks))] == tokens_of(chunks)


@pytest.mark.parametrize("speculation", [PLAIN, *SPECULATIONS], ids=str)
def test_a_cancelled_answer_leaves_a_usable_engine(engine: Engine, speculation: Speculation) -> None:
    expected = tokens_of(answer(engine, "another prompt", speculation=PLAIN))
    cancelled = engine.generate("Hello there", speculation=speculation)
    seen = [next(cancelled) for _ in range(3)]
    cancelled.close()
    assert tokens_of(seen)
    assert tokens_of(answer(engine, "another prompt", speculation=speculation)) == expected


def test_a_new_answer_ends_the_one_before(engine: Engine) -> None:
    first = engine.generate("Hello there")
    next(first)
    expected = tokens_of(answer(engine, "other", speculation=PLAIN))
    assert list(first) == []
    assert tokens_of(answer(engine, "other")) == expected


def test_what_the_cache_holds_of_a_prompt_is_not_computed_again(engine: Engine) -> None:
    prompt = engine.encode("Hello there, this is a prompt")
    first = answer(engine, prompt)
    longer = [*prompt, *tokens_of(first), *engine.encode(" and more", raw=True)]
    stats = answer(engine, longer)[-1].stats
    assert stats.prompt_tokens == len(longer)
    assert stats.cached_tokens == len(prompt) + len(tokens_of(first)) - 1
    assert answer(engine, prompt[:5])[-1].stats.cached_tokens == 4


@pytest.mark.parametrize("speculation", SPECULATIONS, ids=str)
def test_turns_with_a_kept_cache_equal_plain_turns(random_bundle: Path, speculation: Speculation) -> None:
    texts = []
    for choice in (PLAIN, speculation):
        with Engine.open(random_bundle, Request(threads=1, shape="tree", nodes=8)) as engine:
            conversation = Conversation(engine, "Be kind.", speculation=choice, max_new_tokens=25)
            texts.append([text_of(list(conversation.say(line))) for line in ("one", "two", "three")])
            assert [message["role"] for message in conversation.messages] == [
                "system",
                *["user", "assistant"] * 3,
            ]
    assert texts[0] == texts[1]


def test_a_cancelled_turn_stays_in_the_conversation(engine: Engine) -> None:
    conversation = Conversation(engine, max_new_tokens=25)
    turn = conversation.say("one")
    shown = next(turn).text + next(turn).text
    turn.close()
    assert [message["content"] for message in conversation.messages] == ["one", shown]


def test_prompts_are_chats_where_there_is_a_template(engine: Engine) -> None:
    chat = engine.encode("hi")
    assert engine.tokenizer.decode_window(chat) == "[user] hi[assistant] "
    assert engine.encode([{"role": "user", "content": "hi"}]) == chat
    assert engine.encode(chat) == chat
    assert engine.tokenizer.decode(engine.encode("hi", raw=True)) == "hi"


def test_only_planned_levels_are_open(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(drafters=("far",), nodes=3, threads=1)) as engine:
        assert list(engine.drafters) == ["far"]
        assert engine.target.max_rows == 5
        with pytest.raises(PocketspecError, match="no drafter 'near' is open; there are: far, suffix, none, auto"):
            engine.generate("hi", speculation=Speculation("near"))
        with pytest.raises(PocketspecError, match="a draft size of 4; the plan allows 1 to 3"):
            engine.generate("hi", speculation=Speculation("far", 4))


def test_exactness_is_said_for_each_shape(engine: Engine) -> None:
    widths = engine.target.widths
    try:
        for exact, tree, expected in ((True, True, [1, 1, 1]), (True, False, [1, 1, 0]), (False, False, [0, 0, 0])):
            engine.target.widths = SafeWidths(widths.widths, exact, tree)
            asked = (PLAIN, Speculation("near", shape="chain"), Speculation("near", shape="tree"))
            assert [engine.is_exact(speculation) for speculation in asked] == expected
    finally:
        engine.target.widths = widths


@pytest.fixture
def unlike_trees(random_bundle: Path) -> Iterator[tuple[Engine, list[str]]]:
    """An engine with room for trees, whose rows do not agree with those of chains, and what it tells."""
    notes: list[str] = []
    with Engine.open(random_bundle, Request(threads=1, shape="tree", nodes=8), notify=notes.append) as engine:
        engine.target.widths = replace(engine.target.widths, exact=True, tree=False)
        answer(engine, max_new_tokens=1)  # what is measured once is measured
        notes.clear()
        yield engine, notes


@pytest.mark.parametrize("drafter", ["near", "suffix", "suffix+near", "auto"])
@pytest.mark.parametrize("size", [None, 4])
def test_trees_that_are_not_exact_are_taken_only_if_asked_for(
    unlike_trees: tuple[Engine, list[str]], drafter: str, size: int | None
) -> None:
    engine, notes = unlike_trees
    for sampling in (SamplingParams(), SAMPLED):
        steps = [chunk.step for chunk in answer(engine, speculation=Speculation(drafter, size), sampling=sampling)]
        assert {step.pick.limit.shape for step in steps} == {"chain"}
        assert notes == []


@pytest.mark.parametrize(
    "asked",
    [
        Speculation("suffix+near", shape="tree"),
        Speculation("near", 6, "tree"),
        Speculation("suffix", limit=tree_limit(5)),
        Speculation(only="tree"),
        Speculation(shape="tree"),
    ],
    ids=str,
)
def test_exact_up_to_near_ties_is_said_before_the_first_token(
    unlike_trees: tuple[Engine, list[str]], asked: Speculation
) -> None:
    engine, notes = unlike_trees
    engine.generate("Hello", speculation=asked)
    (note,) = [line for line in notes if "near ties" in line]
    assert note.endswith("exact up to near ties")
    steps = [chunk.step for chunk in answer(engine, speculation=asked)]
    assert "tree" in {step.pick.limit.shape for step in steps} or asked.drafter == "auto"
    assert len([line for line in notes if "near ties" in line]) == 1, "once"


def test_what_a_tight_budget_gives_up_is_said(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1)) as engine:
        everything = engine.plan.needed_bytes
    notes: list[str] = []
    request = Request(budget_bytes=everything - 1, threads=1)
    with Engine.open(random_bundle, request, notify=notes.append) as engine:
        assert engine.plan.needed_bytes < everything
    assert any(note.startswith("given up: ") for note in notes)


def test_widths_are_tested_once(random_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(random_bundle, tmp_path / "copy", ignore=shutil.ignore_patterns(".device"))
    notes: list[list[str]] = []
    for _ in range(2):
        notes.append([])
        with Engine.open(bundle, Request(threads=1, nodes=6), notify=notes[-1].append) as engine:
            assert engine.target.widths.exact
    assert ["testing which row counts" in " ".join(each) for each in notes] == [True, False]


def test_bundles_of_another_builder_open_as_targets(foreign_bundle: Path) -> None:
    before = sorted(path.name for path in foreign_bundle.iterdir())
    with Engine.open(foreign_bundle, Request(threads=1)) as engine:
        plain = answer(engine, speculation=PLAIN)
        assert tokens_of(answer(engine, speculation=Speculation("suffix"))) == tokens_of(plain)
        with pytest.raises(PocketspecError, match="cannot verify trees"):
            engine.generate("hi", speculation=Speculation("suffix", shape="tree"))
    assert sorted(path.name for path in foreign_bundle.iterdir()) == before


def test_a_foreign_bundle_answers_as_ours(plain_bundle: Path, foreign_bundle: Path) -> None:
    answers = []
    for bundle in (plain_bundle, foreign_bundle):
        with Engine.open(bundle, Request(threads=1)) as engine:
            answers.append(tokens_of(answer(engine)))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("speculation", "sampling", "message"),
    [
        (Speculation("nobody"), SamplingParams(), "no drafter 'nobody' is open"),
        (Speculation(acceptance="magic"), SamplingParams(), "no acceptance rule 'magic'; there are: greedy, match"),
        (Speculation(acceptance="greedy"), SAMPLED, "'greedy' needs temperature 0, not 0.9"),
        (Speculation(acceptance="block"), SamplingParams(), "'block' needs a temperature above 0"),
        (Speculation(acceptance="block", shape="tree"), SAMPLED, "'block' judges chains"),
        (Speculation(shape="star"), SamplingParams(), "no draft shape 'star'"),  # type: ignore[arg-type]
        (Speculation(draft_size=0), SamplingParams(), "a draft size of 0; the plan allows 1 to 15"),
    ],
)
def test_impossible_speculation_is_refused(
    engine: Engine, speculation: Speculation, sampling: SamplingParams, message: str
) -> None:
    with pytest.raises(PocketspecError) as caught:
        engine.generate("hi", sampling=sampling, speculation=speculation)
    assert message in str(caught.value)


def test_prompts_that_do_not_fit_are_refused_with_the_numbers(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(context=64, threads=1)) as engine:
        with pytest.raises(ContextFullError, match="a prompt of 64 tokens; allowed are 1 to 63 in a context of 64"):
            engine.generate([1] * 64)
        with pytest.raises(ContextFullError, match="a prompt of 0 tokens"):
            engine.generate("", raw=True)
        chunks = answer(engine, [1] * 60, max_new_tokens=None)
        assert (len(tokens_of(chunks)), chunks[-1].step.finish) == (4, "context")


def test_a_changed_file_is_refused(random_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(random_bundle, tmp_path / "copy")
    (bundle / "chat_template.jinja").write_text("x" * (bundle / "chat_template.jinja").stat().st_size)
    for verify in (False, True):
        with pytest.raises(ManifestError, match=r"chat_template\.jinja was changed"):
            Engine.open(bundle, verify=verify)


def test_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no bundle at"):
        Engine.open(tmp_path / "nowhere")


def test_a_turn_that_the_next_one_ends_stays_in_the_conversation(engine: Engine) -> None:
    conversation = Conversation(engine, max_new_tokens=25)
    shown = next(conversation.say("one")).text
    first = conversation.say("two")
    shown_then = next(first).text
    last = text_of(list(conversation.say("three")))
    said = [message["content"] for message in conversation.messages]
    assert said == ["one", shown, "two", shown_then, "three", last]
    assert list(first) == []


@pytest.mark.parametrize(
    "settings",
    [{"sampling": {"temperature": 1}}, {"speculation": "near"}, {"speculation": SAMPLED}],
    ids=str,
)
def test_settings_of_another_kind_are_refused(engine: Engine, settings: dict[str, Any]) -> None:
    with pytest.raises(PocketspecError, match=r"is given where a (SamplingParams|Speculation) belongs"):
        engine.generate("hi", **settings)


@pytest.mark.parametrize("given", [{"drafter": None}, {"draft_size": "4"}, {"draft_size": 4.0}, {"draft_size": True}])
def test_a_speculation_is_checked_for_what_it_is(given: dict[str, Any]) -> None:
    with pytest.raises(PocketspecError, match="it takes a name and a whole number"):
        Speculation(**given)
