"""A conversation held by contenders: the same text, history read once, and bytes that add up."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from export.manifest import PocketspecError
from memory.choices import Request
from memory.device import read_device
from memory.meter import read_memory, resident_bytes
from runtime.__main__ import main
from runtime.bench.conversation.measure import ConversationSetting, ConversationTask, converse
from runtime.bench.conversation.settings import ConversationRequest, make_settings
from runtime.bench.conversation.unplanned import UnplannedLevels, allocate_all
from runtime.bundle.foreign import read_bundle
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.process.isolated import run_isolated
from runtime.speculation.request import PLAIN
from tests.places import ROOT
from tests.runtime.tiny_graph import POSITIONS

ELSEWHERE = Path(__file__).parent / "elsewhere"
PROMPTS = ["once upon a time", "and then, my dear,", "so they said", "the end is near"]

only_linux = pytest.mark.skipif(read_memory() is None, reason="only Linux tells what a process uses")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def _setting(bundle: Path, drafter: str = "auto", **request: Any) -> ConversationRequest:
    return ConversationRequest(
        bundle, read_bundle(bundle), read_device(), Request(turns=4, threads=1, **request), drafter
    )


def _converse(bundle: Path, prompts: Path, *options: str) -> int:
    return main(
        ["bench", "conversation", str(bundle), "--prompts", str(prompts), "--turns", "4", "--threads", "1", *options]
    )


@only_linux
def test_contenders_say_the_same_and_their_bytes_add_up(
    random_bundle: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in a process of its own; a raw text, all three kinds of contenders and a hierarchy."""
    output = tmp_path / "report.json"
    names = "planned-chain3,unplanned,plain"
    options = ("--raw", "--drafter", "far>near", "--context", "200", "--tokens", "20", "--compare", names)
    assert _converse(random_bundle, prompts, *options, "--output", str(output)) == 0
    printed = capsys.readouterr()
    rows = {line.split(" | ")[0].strip("| ") for line in printed.out.splitlines() if line.startswith("| ")}
    assert rows >= set(names.split(","))
    assert "planned-chain3 against unplanned: generation memory -" in printed.out
    assert "repeat 1: unplanned: " in printed.err
    for numbers in json.loads(output.read_text())["contenders"].values():
        (held,) = numbers["runs"]
        assert (numbers["identical"], numbers["answers"], held["reread_tokens"]) == (4, 4, 0)
        assert held["tokens"] == sum(map(len, PROMPTS)) + 4 * 20
        parts = ("bare_bytes", "tokenizer_bytes", "weight_bytes", "committed_bytes", "generation_bytes")
        assert sum(held[part] for part in parts) == held["running"]["anonymous_bytes"]
        assert held["bare_bytes"] > 10e6
        assert held["cache_bytes"] > held["committed_bytes"] * 0.9 > 0


def test_unplanned_is_everything_at_once(random_bundle: Path) -> None:
    names = ["planned", "unplanned", "unplanned-chain3", "plain"]
    planned, unplanned, chain, plain = make_settings(names, _setting(random_bundle, context=200))
    assert (planned.plan.context, planned.planned, unplanned.planned) == (200, True, False)
    assert (unplanned.plan.context, unplanned.plan.prefill_chunk) == (POSITIONS, 512)
    assert (unplanned.plan.draft.shape, unplanned.plan.draft.nodes) == ("tree", 15)
    assert (chain.speculation.shape, chain.speculation.draft_size) == ("chain", 3)
    assert (plain.plan.levels[1:], plain.speculation) == ((), PLAIN)
    below = [level.name for level in unplanned.plan.levels[1:]]
    assert below == ["near", "far"]


def test_a_budget_binds_the_planned_contender_alone(random_bundle: Path) -> None:
    free, unplanned = make_settings(["planned", "unplanned"], _setting(random_bundle, context=200))
    budget = free.plan.needed_bytes - 1
    bound, same = make_settings(["planned", "unplanned"], _setting(random_bundle, context=200, budget_bytes=budget))
    assert bound.plan.needed_bytes <= budget
    assert same.plan.levels == unplanned.plan.levels


def test_a_hierarchy_drafts_chains_even_unplanned(random_bundle: Path) -> None:
    (unplanned,) = make_settings(["unplanned"], _setting(random_bundle, "far>near"))
    assert (unplanned.speculation.shape, unplanned.speculation.draft_size) == ("chain", 15)
    assert {level.name for level in unplanned.plan.levels[1:]} == {"near", "far"}


@only_linux
def test_everything_is_taken_and_the_text_stays_the_same(random_bundle: Path) -> None:
    plan = make_settings(["unplanned"], _setting(random_bundle))[0].plan
    rule = StopRule(max_new_tokens=20)
    with Engine.open(random_bundle, plan=plan) as engine:
        prompt = engine.encode("once upon a time there was")
        expected = [token for step in engine.steps(prompt, stop=rule) for token in step.tokens]
    with Engine.open(random_bundle, plan=plan, make_levels=UnplannedLevels) as engine:
        allocate_all(engine)
        rows: list[int] = []
        forward = engine.target.forward
        engine.target.forward = lambda *given: (out := forward(*given), rows.append(len(out.logits)))[0]
        assert [token for step in engine.steps(prompt, stop=rule) for token in step.tokens] == expected
        assert rows[0] == len(prompt) - 1  # of a prompt, too, every row has logits
        for model in (engine.target, *engine.drafters.values()):
            held = resident_bytes((array.ctypes.data, array.nbytes) for array in model.cache.arrays)
            assert held >= model.cache.nbytes


@only_linux
def test_history_that_is_read_again_is_counted(random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the chat template, with a cache that forgets between turns."""
    (plain,) = make_settings(["plain"], _setting(random_bundle, context=POSITIONS))
    task = ConversationTask(random_bundle, tuple(PROMPTS), 8, 6, raw=False, kernels="auto")
    kept = converse(task, plain, lambda line: None)
    generate = Engine.generate

    def forgetful(self: Engine, *given: Any, **settings: Any) -> Any:
        self.target.cache.rollback(0)
        return generate(self, *given, **settings)

    monkeypatch.setattr(Engine, "generate", forgetful)
    lost = converse(task, plain, lambda line: None)
    assert kept.answers == lost.answers
    assert kept.reread_tokens == 0 < lost.reread_tokens
    assert lost.generation_bytes_in_use <= lost.generation_bytes


@only_linux
def test_an_interrupt_shows_what_is_done(
    random_bundle: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(
        work: Callable[..., Any], task: ConversationTask, setting: ConversationSetting, notify: Callable[[str], None]
    ) -> Any:
        if setting.name != "plain":
            raise KeyboardInterrupt
        return work(task, setting, notify)

    monkeypatch.setattr("runtime.process.isolated.run_isolated", here)
    assert _converse(random_bundle, prompts, "--context", "200", "--tokens", "5", "--compare", "plain,planned") == 130
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| pl")]
    assert [row.split(" | ")[0] for row in rows] == ["| plain"]
    assert _converse(random_bundle, prompts, "--context", "200", "--tokens", "5", "--compare", "planned") == 130
    assert "No conversation came to its end." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--compare", "mine"), "no contender 'mine'; write planned, unplanned, plain, or planned and unplanned with"),
        (("--turns", "9"), "has 4 prompts for --turns 9; give more, or ask for fewer turns"),
        (("--tokens", "0"), "--tokens 0: it must be at least 1"),
        (("--drafter", "nobody"), "no drafter 'nobody' in "),
        (("--output", "table.txt"), "--output table.txt: the name must end in .md or .json"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    random_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], message: str
) -> None:
    assert _converse(random_bundle, prompts, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_work_apart_tells_and_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ELSEWHERE))
    work = importlib.import_module("work_apart")
    lines: list[str] = []
    assert run_isolated(work.add, 2, 3, notify=lines.append) == (5, True)
    assert lines == [f"not {os.getpid()}"]
    with pytest.raises(PocketspecError, match="no such number"):
        run_isolated(work.refuse, notify=lines.append)
    with pytest.raises(PocketspecError, match="ended with code 7"):
        run_isolated(work.vanish, notify=lines.append)


@only_linux
def test_work_apart_ends_with_the_process_that_waits_for_it() -> None:
    program = (
        "from runtime.process.isolated import run_isolated\nfrom work_apart import linger\n"
        "if __name__ == '__main__':\n    run_isolated(linger, notify=lambda line: print(line, flush=True))\n"
    )
    with NamedTemporaryFile("w", suffix=".py") as file:
        file.write(program)
        file.flush()
        command, environment = (
            [sys.executable, file.name],
            {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ELSEWHERE)))},
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as waiting:
            assert waiting.stdout is not None
            child = Path("/proc", waiting.stdout.readline().strip())
            assert child.is_dir()
            waiting.kill()
    for _ in range(200):
        if not child.is_dir() or " Z " in (child / "stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("it goes on alone")
