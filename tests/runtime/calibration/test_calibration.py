"""Calibration: what is measured, that the engine is the same afterwards, and what becomes of records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from export.manifest import read_manifest
from memory import Request
from memory.plan import Placement
from runtime.bundle.device_cache import device_folder
from runtime.calibration import calibrate, costs_of, measure, planning_costs, recall_costs, rows, store_costs, stored
from runtime.calibration.report import cost_lines
from runtime.calibration.rows import Effort, Subject, measure_rows
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.kernels.selection import Chooser
from runtime.kernels.weights.packed import no_progress
from runtime.models.loader import Levels

TREES = Request(threads=1, shape="tree", nodes=15)


@pytest.fixture
def bundle(random_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("costs-*")))


def answer(engine: Engine) -> list[int]:
    steps = engine.steps(engine.encode("Once upon a time"), stop=StopRule(max_new_tokens=24))
    return [token for step in steps for token in step.tokens]


def state(engine: Engine) -> list[tuple[object, ...]]:
    models = (engine.target, *engine.drafters.values())
    return [
        (model.widths, model.fixed_width, model.max_rows, model.cache.capacity, model.cache.rows) for model in models
    ]


@pytest.mark.parametrize("quick", [True, False])
def test_every_open_level_is_measured_and_the_engine_is_as_it_was(
    bundle: Path, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "FULL", Effort(rows.FULL.rows, rows.FULL.contexts, turns=1, seconds=1))
    with Engine.open(bundle, TREES) as engine:
        said, before = answer(engine), state(engine)
        costs = calibrate(engine, quick)
        assert state(engine) == before
        assert [model.cache.length for model in (engine.target, *engine.drafters.values())] == [0, 0, 0]
        assert answer(engine) == said
    assert list(costs.levels) == ["tiny", "near", "far"]
    expected = (1, 2, 4, 8, 16) if quick else (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 17)
    assert all(level.rows == expected for level in costs.levels.values())
    assert all(len(level.contexts) > 1 for level in costs.levels.values())
    assert costs.step_seconds > 0
    assert costs.suffix_seconds > 0
    assert min(costs.node_seconds.values()) >= 0
    assert (costs.quick, costs.threads, costs.kernels) == (quick, 1, "portable")
    assert costs.bandwidth > 0


@pytest.mark.parametrize("stage", ["rows", "loop"])
def test_an_interrupt_in_the_middle_leaves_the_engine_as_it_was(
    bundle: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.open(bundle, TREES) as engine:
        said, before = answer(engine), state(engine)

        def interrupted(*arguments: object) -> None:
            # Steps are timed at the widths that answers run; forwards are not padded.
            assert (state(engine) == before) == (stage == "loop")
            raise KeyboardInterrupt

        monkeypatch.setattr(*((measure.loop, "_steps") if stage == "loop" else (rows, "_turn")), interrupted)
        with pytest.raises(KeyboardInterrupt):
            calibrate(engine, quick=True)
        assert state(engine) == before
        assert answer(engine) == said


def test_with_a_fixed_width_forwards_are_timed_at_every_width(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(bundle, replace(TREES, fixed_width=True)) as engine:
        before, padded = state(engine), engine.target.padded
        ran: list[int] = []
        monkeypatch.setattr(engine.target, "padded", lambda rows: ran.append(padded(rows)) or padded(rows))
        calibrate(engine, quick=True)
        assert state(engine) == before
        assert {1, 2, 4, 8} <= {*ran}


def test_a_plan_without_drafts_or_drafters_is_measured_as_far_as_it_goes(bundle: Path) -> None:
    with Engine.open(bundle, Request(threads=1, nodes=0)) as engine:
        costs = calibrate(engine, quick=True)
        assert costs.levels["tiny"].rows[0] == 1
    with Engine.open(bundle, Request(threads=1, context=4, drafters=())) as engine:
        costs = calibrate(engine, quick=True)
        assert costs.levels["tiny"].rows[0] == 1
        assert max(costs.levels["tiny"].contexts) + costs.levels["tiny"].rows[-1] <= 4


class Clock:
    """A model whose forwards take as long as is said, on a clock of its own."""

    def __init__(self, capacity: int, max_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.max_rows, self.widths = 0.0, max_rows, None
        self.cache = SimpleNamespace(capacity=capacity, rows=capacity, length=0, arrays=(), append=self._append)
        self.cache.rollback = self._rollback
        self.ran: list[tuple[int, int, bool, int]] = []
        monkeypatch.setattr(rows, "perf_counter", lambda: self.now)
        monkeypatch.setattr(rows, "any_width", lambda most: None)

    def _append(self, tokens: Sequence[int]) -> None:
        self.cache.length += len(tokens)

    def _rollback(self, length: int) -> None:
        assert length <= self.cache.length
        self.cache.length = length

    def forward(
        self, tokens: Sequence[int], parents: Sequence[int] | None, logits_from: int, hidden: object = None
    ) -> None:
        self.ran.append((self.cache.length, len(tokens), parents is not None, logits_from))
        first = sum(ran[:2] == self.ran[-1][:2] for ran in self.ran) == 1
        self.now += len(tokens) + self.cache.length / 100 + (3.5 if parents else 0) + (50 if first else 0)
        self._append(tokens)


def test_times_are_those_of_warm_forwards_by_rows_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(600, 8, monkeypatch)
    # The first context is timed cold and warm, so that only those of it are warm in the first turn: take three.
    effort = Effort((1, 2, 4, 8), (100, 400), turns=3, seconds=1e9)
    timed = measure_rows({"a": Subject(clock, 8, True)}, effort, no_progress)  # type: ignore[arg-type]
    costs = timed.levels["a"]
    assert (costs.contexts, costs.rows) == ((100, 400), (1, 2, 4, 8))
    for count in (1, 2, 4, 8):
        assert costs.seconds(count, 100) == pytest.approx(count + 1)
        assert costs.seconds(count, 400) == pytest.approx(count + 4)
    assert timed.tree_seconds["a"] == pytest.approx(0.5)
    assert {ran[:2] for ran in clock.ran if ran[2]} == {(400, 8)}


def test_rows_stop_at_what_the_plan_has_room_and_logits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(300, 13, monkeypatch)
    effort = Effort((1, 2, 4, 8, 16), (128, 4096), turns=1, seconds=1e9)
    timed = measure_rows({"a": Subject(clock, 1, False)}, effort, no_progress)  # type: ignore[arg-type]
    costs = timed.levels["a"]
    assert (costs.contexts, costs.rows) == ((128, 300 - 13 - 13), (1, 2, 4, 8, 13))
    assert all(logits_from == count - 1 for _, count, _, logits_from in clock.ran)
    assert not any(tree for _, _, tree, _ in clock.ran)


def test_rows_that_choose_experts_have_tokens_of_their_own_behind_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, read = Clock(300, 8, monkeypatch), list[int]()
    clock.vocab_size = 1000
    keys = np.zeros((1, 2, 300, 4), np.float32)

    def prefill(tokens: Sequence[int]) -> None:
        keys[:, :, : len(tokens)] = np.arange(1, len(tokens) + 1)[:, None]
        read.extend(tokens)
        clock._append(tokens)

    forward, ran = clock.forward, list[tuple[int, ...]]()
    clock.cache.arrays, clock.prefill = (keys,), prefill
    clock.forward = lambda tokens, *others: ran.append(tuple(tokens)) or forward(tokens, *others)  # type: ignore
    effort = Effort((1, 8), (100, 200), turns=2, seconds=1e9)
    measure_rows({"a": Subject(clock, 8, False, experts=True)}, effort, no_progress)  # type: ignore[arg-type]
    assert len(set(read)) == len(read) == 128
    assert all(len(set(tokens)) == len(tokens) for tokens in ran)
    assert len({tokens for tokens in ran if len(tokens) == 8}) == 3, "turns have the same tokens"
    assert keys.all(), "rows are claimed that no text has"


def test_no_turn_begins_that_would_take_too_long_and_progress_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[object]:
        done.append(-total)
        yield done.append

    effort = Effort((1, 2), (10,), turns=50, seconds=20)
    clock = Clock(100, 2, monkeypatch)
    measure_rows({"a": Subject(clock, 2, False)}, effort, progress)  # type: ignore[arg-type]
    # A warm turn takes 3.2 seconds here: six of them, after one that warms up.
    assert len(clock.ran) == 2 * 7
    assert sum(done) == 0


def test_costs_are_measured_once_and_then_recalled(bundle: Path) -> None:
    lines: list[str] = []
    with Engine.open(bundle, TREES) as engine:
        first = costs_of(engine, lines.append)
        assert first.quick
        assert [line for line in lines if "once for this device" in line] == lines != []
        assert costs_of(engine, lines.append) == first
        assert len(lines) == 1


def test_a_whole_calibration_is_preferred_whatever_drafts_are_planned(bundle: Path) -> None:
    with Engine.open(bundle, TREES) as engine:
        costs_of(engine, lambda line: None)
        whole = replace(calibrate(engine, quick=True), quick=False)
        store_costs(engine, whole)
        assert costs_of(engine, pytest.fail) == whole
    with Engine.open(bundle, Request(threads=1, shape="chain", nodes=3, drafters=("near",))) as engine:
        assert costs_of(engine, pytest.fail) == whole


def test_a_whole_calibration_that_lacks_an_open_level_does_not_do(bundle: Path) -> None:
    with Engine.open(bundle, Request(threads=1, drafters=("near",), nodes=3)) as engine:
        store_costs(engine, replace(calibrate(engine, quick=True), quick=False))
    with Engine.open(bundle, Request(threads=1, nodes=3)) as engine:
        assert set(costs_of(engine, lambda line: None).levels) == {"tiny", "near", "far"}


def test_what_is_stored_whole_is_there_before_the_bundle_is_opened(bundle: Path) -> None:
    manifest, request = read_manifest(bundle), Request(threads=1)
    residences = Levels(bundle, manifest, Chooser(), lambda line: None).expected_residences()
    with Engine.open(bundle, TREES) as engine:
        short = costs_of(engine, lambda line: None)
        assert planning_costs(bundle, manifest, request, residences) is None
        store_costs(engine, replace(short, quick=False))
    assert planning_costs(bundle, manifest, request, residences) == replace(short, quick=False)
    for other in (replace(request, threads=2), replace(request, placements={"near": Placement(threads=1)})):
        assert planning_costs(bundle, manifest, other, residences) is None
    native = dict.fromkeys(residences, "native")
    assert planning_costs(bundle, manifest, request, native) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["another device", "another file", "another schema", "no JSON", "a negative time"])
def test_what_is_from_elsewhere_or_damaged_is_measured_again_and_said(
    bundle: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with Engine.open(bundle, Request(threads=1, nodes=3)) as engine:
        costs_of(engine, lines.append)
        (record,) = device_folder(bundle).glob("costs-*.json")
        entry = json.loads(record.read_text())
        if damage == "another device":
            monkeypatch.setattr(stored, "device_key", lambda: ["another"])
        elif damage == "another file":
            name = next(name for name in engine.manifest.files if name.endswith(".onnx"))
            entry["key"] = json.loads(json.dumps(entry["key"]).replace(engine.manifest.files[name].sha256, "0" * 64))
            record.write_text(json.dumps(entry))
        elif damage == "another schema":
            monkeypatch.setattr(stored, "SCHEMA", 99)
        elif damage == "no JSON":
            record.write_text(record.read_text()[:-9])
        else:
            entry["value"]["step_seconds"] = -1
            record.write_text(json.dumps(entry))
        assert recall_costs(engine, quick=True) == (None, True)
        again = costs_of(engine, lines.append)
        assert len(lines) == 2
        assert "those on record are damaged, or of another device or version" in lines[1]
        assert recall_costs(engine, quick=True) == (again, False)


def test_other_kernels_threads_and_kv_types_have_records_of_their_own(bundle: Path) -> None:
    for threads in (1, 2):
        with Engine.open(bundle, Request(threads=threads, nodes=3)) as engine:
            costs_of(engine, lambda line: None)
    assert len(list(device_folder(bundle).glob("costs-*.json"))) == 2


def test_a_disk_that_cannot_be_written_costs_the_record_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / "blocked").write_text("")
    monkeypatch.setattr(stored, "device_folder", lambda path: path / "blocked" / "below")
    lines: list[str] = []
    with Engine.open(bundle, Request(threads=1, nodes=3)) as engine:
        assert costs_of(engine, lines.append).levels
        assert costs_of(engine, lines.append).levels
    assert lines == []  # what opening says of such a disk is enough


def test_another_builders_bundle_is_never_written_to(
    foreign_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path))
    before = sorted(foreign_bundle.rglob("*"))
    with Engine.open(foreign_bundle, Request(threads=1)) as engine:
        costs = costs_of(engine, lambda line: None)
        assert costs_of(engine, pytest.fail) == costs
    assert sorted(foreign_bundle.rglob("*")) == before
    assert len(list(tmp_path.rglob("costs-*.json"))) == 1


def test_in_words_it_has_every_row_of_every_level(bundle: Path) -> None:
    with Engine.open(bundle, TREES) as engine:
        costs = calibrate(engine, quick=True)
    text = list(cost_lines("tiny", costs, dict.fromkeys(costs.levels, 1000)))
    assert sum(line.startswith("| 16 |") for line in text) == 3
    ones = [line for line in text if line.startswith("| 1 |")]
    assert all(line.count(" 1.00 |") == len(costs.levels["tiny"].contexts) for line in ones)
    assert "portable kernels, 1 threads" not in text[0]
    assert "beside forwards: " in text[-1]
