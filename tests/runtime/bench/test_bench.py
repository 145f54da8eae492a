"""The benchmark counts what was decoded, takes turns, and compares what can be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memory import Request
from runtime.bench.acceptance import measure_acceptance
from runtime.bench.contenders import parse_contender
from runtime.bench.measure import AnswerRecord, Bench, Task
from runtime.bench.rows import measure_rows
from runtime.bench.setting import collect, worth_comparing
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.models.exact_widths import SafeWidths

CONTENDERS = [parse_contender(name) for name in ("plain", "plain-safe", "near-chain3", "near-tree5x2", "suffix-chain4")]


def _task(engine: Engine, tokens: int = 12, **settings: Any) -> Task:
    return Task([engine.encode(text) for text in ("one", "two")], tokens, **settings)


def _run(engine: Engine, task: Task, names: list[str], repeats: int = 1) -> dict[str, list[AnswerRecord]]:
    contenders = [parse_contender(name) for name in names]
    answers = list(Bench({None: engine}, task).run(contenders, repeats))
    return {name: [answer for answer in answers if answer.contender == name] for name in names}


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.8, seed=3)])
def test_every_contender_gives_the_same_answers(engine: Engine, sampling: SamplingParams) -> None:
    safe = engine.target.widths
    answers = list(Bench({None: engine}, _task(engine, sampling=sampling)).run(CONTENDERS, 2))
    assert engine.target.widths == safe
    for prompt in range(2):
        assert len({answer.tokens for answer in answers if answer.prompt == prompt}) == 1
    for answer in answers:
        assert len(answer.tokens) == 12
        assert 0 < answer.first_token_seconds < answer.seconds
        assert sum(step.seconds for step in answer.steps[1:]) < answer.seconds - answer.first_token_seconds
        assert answer.overhead_seconds > 0
    steps = {
        contender.name: sum(len(a.steps) for a in answers if a.contender == contender.name) for contender in CONTENDERS
    }
    assert steps["plain"] == 48 > steps["near-chain3"]
    trees = [step for answer in answers if answer.contender == "near-tree5x2" for step in answer.steps]
    assert max(step.depth for step in trees) == 2 < max(step.num_drafted for step in trees)


def test_a_hierarchy_is_a_contender_whose_levels_are_told_apart(engine: Engine) -> None:
    runs = _run(engine, _task(engine, 24), ["plain-safe", "far>near-chain6/chain2", "far>near-chain6/tree4x2"])
    plain, chains, trees = runs.values()
    for answers, inner in ((chains, {2}), (trees, {4})):
        assert [answer.tokens for answer in answers] == [answer.tokens for answer in plain]
        below = [step for answer in answers for outer in answer.steps for step in outer.below]
        assert max(step.num_drafted for step in below) in inner
        found = measure_acceptance([step for answer in answers for step in answer.steps], "tiny")
        assert [each.level for each in found] == ["tiny", "near"]


def test_what_makes_no_difference_is_left_out(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def left_of(names: str) -> str:
        contenders = worth_comparing([parse_contender(name) for name in names.split(",")], {None: engine})
        return ",".join(contender.name for contender in contenders)

    names = "plain,plain-safe,near-tree4,tree,chain,auto"
    for widths, left in (
        (SafeWidths((1, 2), exact=True, tree=True), names.replace(",plain-safe", "")),
        (SafeWidths((2, 4), exact=True, tree=False), names.replace(",tree", "")),
        (SafeWidths((2, 4), exact=False, tree=False), names),
    ):
        monkeypatch.setattr(engine.target, "widths", widths)
        assert left_of(names) == left


def test_contenders_take_turns_on_every_prompt(engine: Engine) -> None:
    order = [(a.repeat, a.prompt, a.contender) for a in Bench({None: engine}, _task(engine, 2)).run(CONTENDERS[:3], 2)]
    a, b, c = (contender.name for contender in CONTENDERS[:3])
    turns = [(0, 0, (a, b, c)), (0, 1, (b, c, a)), (1, 0, (b, c, a)), (1, 1, (c, a, b))]
    assert order == [(repeat, prompt, name) for repeat, prompt, names in turns for name in names]


def test_every_answer_reads_its_prompt_at_all_levels(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first token of all but the first contender would come too soon."""
    steps, held = engine.steps, []

    def spy(*arguments: Any, **settings: Any) -> Any:
        held.append([model.cache.length for model in (engine.target, *engine.drafters.values())])
        return steps(*arguments, **settings)

    monkeypatch.setattr(engine, "steps", spy)
    answers = list(Bench({None: engine}, _task(engine, 4)).run(CONTENDERS[:3], 2))
    assert len(held) == 3 + len(answers) == 15  # a short answer of each warms up
    assert not any(map(any, held))


def test_only_plain_runs_single_rows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, widths = engine.steps, []

    def spy(*arguments: Any, **settings: Any) -> Any:
        widths.append(engine.target.padded(1))
        return steps(*arguments, **settings)

    monkeypatch.setattr(engine, "steps", spy)
    for contender in CONTENDERS[:3]:
        assert len(list(Bench({None: engine}, _task(engine, 3)).run([contender], 1))) == 2
    assert widths == [1] * 3 + [2] * 6
    assert engine.target.padded(1) == 2


def test_end_tokens_end_answers_unless_acceptance_is_simulated(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = _run(engine, _task(engine), ["plain"])["plain"][0].tokens[:2]
    target = engine.manifest.target
    ending = replace(target, vocabulary=replace(target.vocabulary, eos_token_ids=(other,)))
    monkeypatch.setattr(engine, "manifest", replace(engine.manifest, levels=(ending, *engine.manifest.levels[1:])))
    assert len(_run(engine, _task(engine), ["plain"])["plain"][0].tokens) < 12
    assert len(_run(engine, _task(engine, simulated=True), ["plain"])["plain"][0].tokens) == 12


def test_simulated_luck_is_the_same_for_all_contenders_and_another_for_every_answer(engine: Engine) -> None:
    contenders = [parse_contender(name) for name in ("near-chain6", "far-chain6")]
    chances = dict.fromkeys((contender.name for contender in contenders), ((0.6,), None))
    task = Task([engine.encode(text) for text in ("one", "two")], 30, simulated=True)
    with Engine.open(engine.bundle, Request(threads=1, shape="tree", nodes=15)) as other:
        answers = list(Bench({None: other}, task, chances).run(contenders, 2))
    accepted = {(a.contender, a.prompt, a.repeat): tuple(s.num_accepted for s in a.steps) for a in answers}
    keys = [(prompt, repeat) for prompt in range(2) for repeat in range(2)]
    assert all(accepted["near-chain6", *key] == accepted["far-chain6", *key] for key in keys)
    assert len({accepted["near-chain6", *key] for key in keys}) == 4
    # Different as their weights are, they accept what they were told to.
    assert 1.5 < sum(len(a.tokens) for a in answers) / sum(len(a.steps) for a in answers) < 3.5


def test_the_perfect_drafter_is_always_right(engine: Engine) -> None:
    runs = _run(engine, _task(engine), ["plain-safe", "perfect-chain3"])
    for plain, perfect in zip(*runs.values(), strict=True):
        assert perfect.tokens == plain.tokens
        assert (len(plain.steps), len(perfect.steps)) == (12, 3)


def test_what_was_answered_before_an_interrupt_is_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes in the middle of a step; the engine can be used on."""
    forward, calls = engine.target.forward, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt
        return forward(*arguments)

    expected = _run(engine, _task(engine, 8), ["plain"])["plain"]
    monkeypatch.setattr(engine.target, "forward", interrupted)
    shown: list[AnswerRecord] = []
    answers, error = collect(Bench({None: engine}, _task(engine, 8)), CONTENDERS[:1], 9, shown.append)
    assert isinstance(error, KeyboardInterrupt)
    assert calls == 40
    assert len(answers) == (39 - 8) // 8 == 3
    assert shown == answers
    assert answers[0].tokens == expected[0].tokens
    monkeypatch.undo()
    again = _run(engine, _task(engine, 8), ["plain"])["plain"]
    assert [answer.tokens for answer in again] == [answer.tokens for answer in expected]


def test_an_error_loses_nothing_either(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(answer: AnswerRecord) -> None:
        if answer.prompt:
            raise RuntimeError("no more")

    answers, error = collect(Bench({None: engine}, _task(engine, 2)), CONTENDERS[:1], 1, advance)
    assert (len(answers), str(error)) == (2, "no more")
    answers, error = collect(Bench({None: engine}, _task(engine, 2)), CONTENDERS[:1], 1, lambda answer: None)
    assert (len(answers), error) == (2, None)


def test_rows_are_timed_and_the_cache_left_empty(engine: Engine) -> None:
    safe = engine.target.widths
    times = measure_rows(engine.target, [1, 4, 1000])
    assert list(times) == [1, 4]
    assert all(0 < value.low <= value.median <= value.high for value in times.values())
    assert engine.target.cache.length == 0
    assert engine.target.widths == safe
