"""The benchmark counts what was decoded, compares what can be compared, and says what it needs to be repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.manifest import PocketspecError
from runtime.__main__ import main
from runtime.bench import Bench, Contender, measure_rows, parse_contender, read_prompts, spread
from runtime.engine import Engine
from runtime.speculation import PLAIN, Speculation

CONTENDERS = [parse_contender(name) for name in ("plain", "plain-safe", "near-chain3", "near-tree5", "suffix-chain4")]


def test_contenders_are_read_from_their_names() -> None:
    assert parse_contender("plain") == Contender("plain", PLAIN, single_rows=True)
    assert parse_contender("plain-safe") == Contender("plain-safe", PLAIN)
    assert parse_contender("my-0.5b-tree12").speculation == Speculation("my-0.5b", 12, "tree")
    with pytest.raises(PocketspecError, match="no contender 'near'; write plain, plain-safe"):
        parse_contender("near")


def test_every_contender_gives_the_same_answers(engine: Engine) -> None:
    safe = engine.target.widths
    prompts = [engine.encode(text) for text in ("one", "two")]
    runs = Bench({None: engine}, prompts, 12).measure(CONTENDERS, 2)
    assert engine.target.widths == safe
    assert {name: len(each) for name, each in runs.items()} == {contender.name: 2 for contender in CONTENDERS}
    answers = {run.answers for each in runs.values() for run in each}
    assert len(answers) == 1
    for each in runs.values():
        for run in each:
            assert run.tokens == sum(map(len, run.answers)) == 24
            assert 0 < run.overhead_seconds * run.steps < 10 * run.step_seconds
    assert runs["plain"][0].steps == 24
    assert runs["near-chain3"][0].steps < 24


def test_only_plain_runs_single_rows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, widths = engine.steps, []

    def spy(*arguments: Any, **settings: Any) -> Any:
        widths.append(engine.target.padded(1))
        return steps(*arguments, **settings)

    monkeypatch.setattr(engine, "steps", spy)
    bench = Bench({None: engine}, [engine.encode("one")], 3)
    for contender in CONTENDERS[:3]:
        bench.measure([contender], 1)
    single, safe = widths[0], engine.target.padded(1)
    assert single == 1
    assert widths == [single] * 4 + [safe] * 8
    assert safe == 2


def test_rows_are_timed_and_the_cache_left_empty(engine: Engine) -> None:
    safe = engine.target.widths
    times = measure_rows(engine.target, [1, 4, 1000])
    assert list(times) == [1, 4]
    assert all(0 < value.low <= value.median <= value.high for value in times.values())
    assert engine.target.cache.length == 0
    assert engine.target.widths == safe


def test_a_spread_is_median_and_range() -> None:
    value = spread([3.0, 1.0, 8.0])
    assert (value.median, value.low, value.high) == (3.0, 1.0, 8.0)


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.txt", "one\n\ntwo\n", ["one", "two"]),
        ("a.txt", "one\nmore<|endoftext|>\n two <|endoftext|>\n", ["one\nmore", "two"]),
        ("a.jsonl", '{"prompt": "one"}\n\n{"turns": ["two", "later"]}\n', ["one", "two"]),
    ],
)
def test_prompts_are_read_from_each_kind_of_file(tmp_path: Path, name: str, text: str, prompts: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert read_prompts(path, None) == prompts
    assert read_prompts(path, 1) == prompts[:1]


def test_bad_prompt_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n{"question": "two"}\n')
    with pytest.raises(PocketspecError, match=r"a\.jsonl, line 2: not a JSON object with 'prompt' or 'turns'"):
        read_prompts(tmp_path / "a.jsonl", None)
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(PocketspecError, match=r"a\.txt has no prompts"):
        read_prompts(tmp_path / "a.txt", None)


def test_the_report_has_everything_to_repeat_it(
    random_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", str(random_bundle), "--compare", "plain,plain-safe,near-chain3", "--count", "2"]
    arguments += ["--tokens", "8", "--repeat", "2", "--rows", "1,2", "--threads", "1", "--prompt-tokens", "9"]
    assert main([*arguments, "--output", str(tmp_path / "out.json")]) == 0
    out, err = capsys.readouterr()
    assert "onnxruntime 1." in out
    assert "threads 1" in out
    assert "[random-weights]" in out
    assert "| near-chain3 | " in out
    assert "| ms for rows | 1 | 2 |" in out
    assert "repeat 2: near-chain3 " in err
    data = json.loads((tmp_path / "out.json").read_text())
    contender = data["contenders"]["near-chain3"]
    assert (contender["identical"], contender["answers"]) == (4, 4)
    assert contender["ratio"]["low"] <= contender["ratio"]["median"] <= contender["ratio"]["high"]
    assert data["contenders"]["plain"]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert set(data["rows_seconds"]) == {"tiny", "near"}
    assert main([*arguments, "--output", str(tmp_path / "out.md")]) == 0
    assert (tmp_path / "out.md").read_text() == capsys.readouterr().out


def test_the_perfect_drafter_is_always_right(engine: Engine) -> None:
    contenders = [parse_contender(name) for name in ("plain-safe", "perfect-chain3")]
    prompts = [engine.encode(text) for text in ("one", "two")]
    runs = Bench({None: engine}, prompts, 12).measure(contenders, 1)
    plain, perfect = runs["plain-safe"][0], runs["perfect-chain3"][0]
    assert perfect.answers == plain.answers
    assert (plain.steps, perfect.steps) == (24, 6)
