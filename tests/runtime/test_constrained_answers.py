"""Constrained answers of an engine: the same text with every drafter, forced tokens as drafts, and ends that fit."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from export.manifest import Manifest
from memory import Request
from memory.build import plan_with_constraints
from memory.footprint import CONSTRAINTS as CONSTRAINTS_PART
from memory.footprint import constraint_bytes
from memory.plan import OverBudgetError, Plan
from runtime.constraints.request import AnyJsonObject, Constrained, ConstraintError, Grammar, JsonSchema, Regex
from runtime.conversation import Conversation
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine, TextChunk
from runtime.speculation.request import PLAIN, Speculation
from runtime.turns import ClosedError
from tests.runtime.test_engine import text_of, tokens_of

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["cat", "canary", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "kind", "age"],
    "additionalProperties": False,
}
CONSTRAINTS: dict[str, Constrained] = {
    "schema": JsonSchema(SCHEMA),
    "object": AnyJsonObject(),
    "regex": Regex(r" ?Once upon a time[a-z ,]{3,20}\."),
    "grammar": Grammar('start: item (", " item)*\nitem: /[a-z]+/ " is " ("red" | "green")'),
}
SPECULATIONS = [
    Speculation(),
    Speculation("near", 6),
    Speculation("near", 7, "tree"),
    Speculation("far", 3),
    Speculation("suffix", 5),
    Speculation("suffix+near", 4),
    Speculation("ahead:near", 4),
]
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=7)
both_ways = pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])


def answer(engine: Engine, constraint: Constrained | None, **settings: Any) -> list[TextChunk]:
    return list(engine.generate("Hello there", constraint=constraint, **{"max_new_tokens": 70, **settings}))


def sources_of(chunks: list[TextChunk]) -> list[str]:
    return [source for chunk in chunks for source in chunk.step.sources]


@both_ways
@pytest.mark.parametrize(
    "name", ["schema", "regex", *(pytest.param(name, marks=pytest.mark.slow) for name in ("object", "grammar"))]
)
def test_every_drafter_gives_the_plain_answer(engine: Engine, name: str, sampling: SamplingParams) -> None:
    constraint = CONSTRAINTS[name]
    plain = answer(engine, constraint, sampling=sampling, speculation=PLAIN)
    assert set(sources_of(plain)) == {"target"}
    for speculation in SPECULATIONS:
        ours = answer(engine, constraint, sampling=sampling, speculation=speculation)
        assert tokens_of(ours) == tokens_of(plain), speculation
        assert text_of(ours) == text_of(plain)
        assert ours[-1].stats.finish == plain[-1].stats.finish


@pytest.mark.parametrize("rule", ["match", "block", "recursive"])
def test_answers_follow_the_schema_and_end_with_it(engine: Engine, rule: str) -> None:
    for seed in range(3):
        speculation = Speculation("near", 4, acceptance=rule)
        sampling = SamplingParams(temperature=1.0, seed=seed)
        chunks = answer(engine, CONSTRAINTS["schema"], sampling=sampling, speculation=speculation)
        jsonschema.validate(json.loads(text_of(chunks)), SCHEMA)
        assert chunks[-1].stats.finish == "stop"
        assert tokens_of(chunks) == engine.encode(text_of(chunks), raw=True)  # no end token was needed


def test_forced_tokens_are_free_drafts_wherever_drafts_are_allowed(engine: Engine) -> None:
    for speculation in (Speculation(), Speculation("near", 4), Speculation("suffix", 4)):
        chunks = answer(engine, CONSTRAINTS["schema"], speculation=speculation)
        forced = [chunk.step for chunk in chunks if chunk.step.pick.drafter == "grammar"]
        assert all(step.num_drafted == step.num_accepted > 0 for step in forced)
        assert sources_of(chunks).count("grammar") > 15
        assert max(step.num_drafted for step in forced) <= engine.plan.draft.nodes


def test_the_scheduler_learns_nothing_from_forced_tokens(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, nodes=6)) as engine:
        chunks = answer(engine, Regex("abcdefgh[xy]ijklmnop"))
        assert chunks[0].step.pick.drafter == "grammar"
        counted = sum(prospect.tokens for prospect in engine.explain())
        assert counted <= len(sources_of(chunks)) - sources_of(chunks).count("grammar")
        list(engine.generate("Hello there", max_new_tokens=10))
        assert "grammar" not in [prospect.name for prospect in engine.explain()]


def test_an_answer_that_is_cut_off_says_so(engine: Engine) -> None:
    chunks = answer(engine, CONSTRAINTS["schema"], max_new_tokens=8)
    assert chunks[-1].stats.finish == "length"
    whole = answer(engine, Regex("abcdefgh"), max_new_tokens=8)
    assert (text_of(whole), whole[-1].stats.finish) == ("abcdefgh", "stop")


def test_end_tokens_end_an_answer_even_if_they_are_to_be_ignored(engine: Engine) -> None:
    for seed in range(4):
        sampling = SamplingParams(temperature=2.0, seed=seed)
        chunks = answer(engine, Regex("a(bc)*"), ignore_eos=True, sampling=sampling, max_new_tokens=60)
        text = text_of(chunks)
        assert text == "a" + "bc" * (len(text) // 2)
        if chunks[-1].stats.finish == "eos":
            return
    raise AssertionError("no answer ended")


def test_a_constraint_is_forgotten_with_its_answer(engine: Engine) -> None:
    free = answer(engine, None)
    next(iter(engine.generate("Hello there", constraint=CONSTRAINTS["schema"])))
    assert tokens_of(answer(engine, None)) == tokens_of(free)


def test_a_constraint_goes_on_where_the_context_slides(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, context=48, nodes=4)) as engine:
        for speculation in (PLAIN, Speculation(), Speculation("near", 3)):
            chunks = answer(
                engine, Regex("(ab|cd){40}e"), when_full="slide", max_new_tokens=200, speculation=speculation
            )
            assert chunks[-1].stats.finish == "stop"
            assert len(text_of(chunks)) == 81


def test_a_budget_that_changes_changes_no_constrained_text(engine: Engine) -> None:
    expected = tokens_of(answer(engine, CONSTRAINTS["object"], speculation=Speculation("near", 4)))
    tokens: list[int] = []
    settings = {"max_new_tokens": 70, "speculation": Speculation("near", 4), "constraint": CONSTRAINTS["object"]}
    for number, chunk in enumerate(engine.generate("Hello there", **settings)):
        tokens += chunk.step.tokens
        if number in (2, 6):
            engine.replan(engine.plan.total_bytes - (100_000 if number == 2 else -2_000_000))
    assert tokens == expected


def test_a_bad_constraint_is_refused_and_a_running_answer_goes_on(engine: Engine) -> None:
    running = engine.generate("Hello there", max_new_tokens=20)
    first = next(running)
    with pytest.raises(ConstraintError, match="at #/properties/a"):
        engine.generate("Hello", constraint=JsonSchema({"properties": {"a": {"not": {}}}}))
    assert len([*first.step.tokens, *tokens_of(list(running))]) == 20


def test_a_closed_engine_waits_for_no_compiler(random_bundle: Path) -> None:
    """As in a forked process, where a thread that stayed behind may hold the lock for ever."""
    with Engine.open(random_bundle, Request(threads=1, nodes=0)) as engine:
        pass
    engine._answering._constraints._lock = pytest.fail  # type: ignore[assignment]
    for ask in (engine.check_constraint, lambda constraint: engine.generate([1, 2], constraint=constraint)):
        with pytest.raises(ClosedError):
            ask(AnyJsonObject())


def test_a_conversation_keeps_every_answer_to_the_constraint(engine: Engine) -> None:
    conversation = Conversation(engine, max_new_tokens=70, constraint=CONSTRAINTS["schema"])
    for _ in range(2):
        list(conversation.say("And now?"))
        jsonschema.validate(json.loads(conversation.messages[-1]["content"]), SCHEMA)


def test_the_plan_counts_constraints_from_the_first_one_on(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, nodes=4, context=256)) as engine:
        assert engine.plan.process.part(CONSTRAINTS_PART).anonymous == 0
        answer(engine, CONSTRAINTS["schema"], max_new_tokens=4)
        assert engine.plan.process.part(CONSTRAINTS_PART).anonymous == constraint_bytes(engine.manifest) > 0
        engine.replan(engine.plan.needed_bytes - 1)  # whatever else is given up then
        assert engine.plan.process.part(CONSTRAINTS_PART).anonymous == constraint_bytes(engine.manifest)


def test_a_constraint_makes_room_for_itself_within_the_budget(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, nodes=4, context=256, kept_conversations=400)) as engine:
        engine.set_budget(engine.plan.needed_bytes)
        before = engine.plan
        running = engine.generate("Hello there", max_new_tokens=10)
        first = next(running)
        engine.check_constraint(CONSTRAINTS["schema"])
        after = engine.plan
        assert after.process.part(CONSTRAINTS_PART).anonymous == constraint_bytes(engine.manifest)
        assert after.needed_bytes <= after.budget_bytes == before.budget_bytes
        assert after.kept_conversations < before.kept_conversations
        assert (after.context, after.target.kv_type) == (before.context, before.target.kv_type)
        assert len([*first.step.tokens, *tokens_of(list(running))]) == 10


def test_a_budget_that_is_set_meanwhile_counts_constraints_too(
    random_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def count_slowly(plan: Plan, manifest: Manifest) -> Plan:
        threads.append(threading.Thread(target=lambda: engine.set_budget(budget)))
        threads[0].start()
        threads[0].join(0.2)
        return plan_with_constraints(plan, manifest)

    with Engine.open(random_bundle, Request(threads=1, nodes=4, context=256)) as engine:
        budget = engine.plan.budget_bytes - 1
        monkeypatch.setattr("runtime.open_models.plan_with_constraints", count_slowly)
        engine.check_constraint(CONSTRAINTS["schema"])
        threads[0].join()
        engine.end_answer()
        assert engine.plan.budget_bytes == budget
        assert engine.plan.process.part(CONSTRAINTS_PART).anonymous == constraint_bytes(engine.manifest)


def test_a_budget_that_cannot_have_room_for_constraints_refuses_them_and_nothing_else(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, nodes=4, context=256)) as engine:
        with pytest.raises(OverBudgetError) as caught:
            engine.set_budget(1)
        engine.set_budget(caught.value.smallest_bytes)
        running = engine.generate("Hello there", max_new_tokens=10)
        first = next(running)
        with pytest.raises(OverBudgetError, match="constrained answers of tiny need a budget of") as caught:
            engine.check_constraint(CONSTRAINTS["schema"])
        assert engine.plan.process.part(CONSTRAINTS_PART).anonymous == 0
        assert len([*first.step.tokens, *tokens_of(list(running))]) == 10
        engine.set_budget(caught.value.smallest_bytes)
        assert text_of(answer(engine, Regex("abcdefgh"))) == "abcdefgh"
