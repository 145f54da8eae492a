"""``python -m runtime bench``: the same numbers in every format, labels in every row, and nothing half written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from export.manifest import PocketspecError
from runtime.__main__ import main
from runtime.bench.intervals import spread
from runtime.bench.measure import Bench
from runtime.decoding.draft import Step
from runtime.decoding.loop import Loop

LABEL = "random weights"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    records = [{"prompt": "one", "category": "a"}, {"turns": ["two"], "category": "b"}, {"prompt": "x", "kind": "a"}]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def _bench(bundle: Path, *options: object) -> int:
    return main(["bench", str(bundle), "--tokens", "8", "--threads", "1", *map(str, options)])


def _table_rows(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and "---" not in line]


def _lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_prompts_shorter_than_wished_for_are_refused_before_anything_is_measured(
    random_bundle: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--prompts", prompts, "--prompt-tokens", 256, "--output", tmp_path / "out.json")
    assert _bench(random_bundle, *options) == 2
    assert "--prompt-tokens 256: of 3 prompts the longest has " in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_the_report_has_everything_to_repeat_it(
    random_bundle: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--compare", "plain,plain-safe,near-chain3", "--repeat", 2, "--rows", "1,2", "--prompt-tokens", 9)
    options = (*options, "--temperature", 0.7, "--prompts", prompts, "--baseline", "plain")
    assert _bench(random_bundle, *options, "--output", tmp_path / "out.json") == 0
    out, err = capsys.readouterr()
    for part in (
        "onnxruntime 1.",
        "threads 1",
        " of 9 tokens, 2 repeats",
        "temperature 0.7, seed 0",
        "This machine reads ",
        "Load before: ",
        "| ms for rows | 1 | 2 |",
    ):
        assert part in out
    assert "18 of 18 answers; repeat 2, prompt 3: " in err
    data = json.loads((tmp_path / "out.json").read_text())
    assert (data["threads"], data["seed"], data["temperature"], data["ended_early"]) == (1, 0, 0.7, None)
    assert data["bandwidth_bytes_per_second"] > 1e8
    assert data["load_before"] >= 0
    near = data["contenders"]["near-chain3"]
    assert (near["identical"], near["answers"], near["prompts"]) == (6, 6, 3)
    assert near["ratio"]["low"] <= near["ratio"]["value"] <= near["ratio"]["high"]
    assert near["acceptance"][0]["level"] == "tiny"
    assert near["read_bytes_per_second"] > 0
    assert data["contenders"]["plain"]["ratio"]["value"] == 1.0
    assert set(data["rows_seconds"]) == {"tiny", "near"}
    assert len(data["answers"]) == 18


def test_by_default_all_that_the_bundle_can_have_is_compared(
    random_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _bench(random_bundle, "--repeat", 1, "--count", 2, "--output", tmp_path / "out.json") == 0
    data = json.loads((tmp_path / "out.json").read_text())
    assert list(data["contenders"]) == ["plain", "plain-safe", "suffix", "chain", "auto"]
    for name, row in data["contenders"].items():
        assert (row["identical"], row["answers"]) == (2, 2)
        assert sum(row["choices"].values()) == pytest.approx(1)
        if name in ("suffix", "chain"):
            family = "suffix-chain" if name == "suffix" else "-chain"
            assert all(family in choice for choice in row["choices"])
    baseline = max(("plain", "plain-safe"), key=lambda name: data["contenders"][name]["tokens_per_second"])
    assert data["baseline"] == baseline


def test_every_format_says_the_same(
    random_bundle: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run, written three times."""
    done = list[Any]()

    def recorded(self: Bench, *given: Any) -> Any:
        if not done:
            done.extend(run(self, *given))
        yield from done

    run = Bench.run
    monkeypatch.setattr(Bench, "run", recorded)
    monkeypatch.setattr("runtime.hardware.measure_bandwidth", lambda threads: 2e10)
    options = ("--compare", "plain,near-tree5x3", "--repeat", 1, "--prompts", prompts)
    for ending in ("md", "csv", "json"):
        assert _bench(random_bundle, *options, "--output", tmp_path / f"out.{ending}") == 0
    printed = _table_rows(capsys.readouterr().out)
    assert printed == _table_rows((tmp_path / "out.md").read_text()) * 3
    data = json.loads((tmp_path / "out.json").read_text())
    lines = _lines(tmp_path / "out.csv")
    assert [(line["contender"], line["category"]) for line in lines] == [
        (name, category) for category in ("", "a", "b") for name in ("plain", "near-tree5x3")
    ]
    rows = {row[0]: row for row in _table_rows((tmp_path / "out.md").read_text()) if len(row) > 10}
    for line in lines:
        where = data["categories"][line["category"]] if line["category"] else data["contenders"]
        value = where[line["contender"]]
        for name, number in value.items():
            if isinstance(number, int | float):
                assert float(line[name]) == number
        assert float(line["ratio"]) == value["ratio"]["value"]
        assert line["ratio_low"] == ("" if value["ratio"]["low"] is None else str(value["ratio"]["low"]))
        assert (line["threads"], line["seed"], line["temperature"]) == ("1", "0", "0.0")
        if not line["category"]:
            cells = rows[f"{line['contender']} [{LABEL}]"]
            assert cells[1] == f"{value['tokens_per_second']:.1f}"
            assert cells[2].startswith(f"{value['ratio']['value']:.2f} (")
            assert cells[6] == f"{value['tokens_per_step']:.2f}"


def test_stand_ins_are_labelled_in_every_row(
    random_bundle: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--compare", "plain,near-chain2,suffix-chain2", "--repeat", 1, "--prompts", prompts)
    assert _bench(random_bundle, *options, "--output", tmp_path / "out.csv") == 0
    rows = [row for row in _table_rows(capsys.readouterr().out) if row[0] and "[" in row[0]]
    assert len(rows) == 6  # over all prompts, and by category
    assert all(row[0].endswith(f" [{LABEL}]") for row in rows)
    assert {line["label"] for line in _lines(tmp_path / "out.csv")} == {LABEL}


def test_simulated_acceptance_is_labelled_in_every_row(
    random_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--compare", "plain,near-chain3", "--repeat", 1, "--count", 2, "--synthetic-acceptance", "1,1,1")
    assert _bench(random_bundle, *options, "--output", tmp_path / "out.json") == 0
    label = f"{LABEL}, synthetic acceptance 1,1,1"
    rows = [row for row in _table_rows(capsys.readouterr().out) if "[" in row[0]]
    assert [row[0] for row in rows] == [f"plain [{label}]", f"near-chain3 [{label}]"]
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["synthetic_acceptance"] == "1,1,1"
    assert {row["label"] for row in data["contenders"].values()} == {label}
    assert data["contenders"]["near-chain3"]["tokens_per_step"] == 4.0
    # What is said means nothing then, so nothing is compared.
    assert data["contenders"]["near-chain3"]["identical"] is None


def test_draws_that_only_keep_the_law_are_not_compared(random_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--compare", "plain,near-chain2", "--repeat", 1, "--count", 2, "--temperature", 0.8)
    for rule, shown in (("match", "2/2"), ("recursive", "-")):
        assert _bench(random_bundle, *options, "--acceptance", rule) == 0
        rows = [row for row in _table_rows(capsys.readouterr().out) if "[" in row[0]]
        assert [row[-1] for row in rows] == ["2/2", shown]


def test_categories_have_rows_of_their_own_and_one_prompt_no_interval(
    random_bundle: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--compare", "plain,near-chain2", "--repeat", 2, "--prompts", prompts, "--output", tmp_path / "out.json")
    assert _bench(random_bundle, *options) == 0
    table = [row for row in _table_rows(capsys.readouterr().out) if len(row) == 3]
    assert table[0][1:] == ["a", "b"]
    assert re.fullmatch(r"\d\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", table[2][1])
    assert re.fullmatch(r"\d\.\d\d \(n=1, no interval\)", table[2][2])
    data = json.loads((tmp_path / "out.json").read_text())
    assert [data["categories"][name]["near-chain2"]["ratio"]["count"] for name in "ab"] == [2, 1]
    assert _bench(random_bundle, *options, "--count-per-category", 1) == 0
    data = json.loads((tmp_path / "out.json").read_text())
    assert [data["categories"][name]["plain"]["prompts"] for name in "ab"] == [1, 1]


@pytest.mark.parametrize("ending", ["md", "csv", "json"])
def test_an_interrupt_shows_and_saves_what_is_done(
    random_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ending: str,
) -> None:
    step, calls = Loop.step, 0

    def interrupted(self: Loop, *given: Any) -> Step:
        nonlocal calls
        calls += 1
        if calls == 60:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Loop, "step", interrupted)
    path = tmp_path / f"out.{ending}"
    assert _bench(random_bundle, "--compare", "plain,plain-safe", "--repeat", 2, "--output", path) == 130
    out = capsys.readouterr().out
    assert "**interrupted after 5 of 16 answers**" in out  # 16 steps warm up, 8 make an answer
    assert [row[0] for row in _table_rows(out) if row[0].startswith("plain")] == [
        f"plain [{LABEL}]",
        f"plain-safe [{LABEL}]",
    ]
    assert "interrupted after 5 of 16 answers" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_before_the_first_answer_says_so(
    random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Loop, *given: Any) -> Step:
        raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step", interrupted)
    for ending in ("md", "csv", "json"):
        path = tmp_path / f"out.{ending}"
        assert _bench(random_bundle, "--output", path, "--plots", tmp_path / "plots") == 130
        assert path.is_file()
    assert "No answer came to its end." in capsys.readouterr().out
    assert list((tmp_path / "plots").iterdir()) == []


def test_an_interrupt_while_rows_are_timed_loses_no_answer(
    random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[object] = []

    def interrupted(model: object, counts: object) -> dict[int, object]:
        if measured:
            raise KeyboardInterrupt
        measured.append(model)
        return {1: spread([0.5]), 2: spread([0.75])}

    monkeypatch.setattr("runtime.bench.report.measure_rows", interrupted)
    options = ("--compare", "plain,near-chain2", "--repeat", 1, "--count", 2, "--rows", "1,2")
    assert _bench(random_bundle, *options, "--output", tmp_path / "out.json") == 130
    out = capsys.readouterr().out
    assert "**interrupted while forwards were timed**" in out
    assert "| tiny | 500.00 | 750.00 |" in out
    data = json.loads((tmp_path / "out.json").read_text())
    assert (len(data["answers"]), list(data["rows_seconds"])) == (4, ["tiny"])


def test_an_error_in_the_middle_is_told_after_what_was_measured(
    random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Bench.run

    def broken(self: Bench, *given: Any) -> Any:
        for number, answer in enumerate(run(self, *given)):
            if number == 2:
                raise PocketspecError("the disk is full")
            yield answer

    monkeypatch.setattr(Bench, "run", broken)
    assert _bench(random_bundle, "--compare", "plain", "--output", tmp_path / "out.json") == 2
    out, err = capsys.readouterr()
    assert "ended by an error (the disk is full) after 2 of 12 answers" in out
    assert err.endswith("error: the disk is full\n")
    assert len(json.loads((tmp_path / "out.json").read_text())["answers"]) == 2


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.md"
    path.write_text("before")
    monkeypatch.setattr("os.replace", _refuse)
    assert _bench(random_bundle, "--compare", "plain", "--repeat", 1, "--count", 1, "--output", path) == 2
    out, err = capsys.readouterr()
    assert f"plain [{LABEL}]" in out  # printed all the same
    assert f"error: cannot write {path}: No space left" in err
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def _refuse(*given: Any) -> None:
    raise OSError(28, "No space left on device")


def test_wide_tables_are_cut_for_a_terminal(
    random_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: type("Size", (), {"columns": 90}))
    assert _bench(random_bundle, "--compare", "plain,near-chain2", "--repeat", 1, "--count", 2) == 0
    out = capsys.readouterr().out
    tables = out.split("\n\n")[2:-1]
    assert len(tables) > 2
    for table in tables:
        lines = table.splitlines()
        assert max(map(len, lines)) <= 90
        assert [line.split(" [")[0] for line in lines[1:]] == ["plain", "near-chain2"]
    for title in ("draft ms", "first token ms", "peak MiB", "answers as plain"):
        assert sum(title in table.splitlines()[0] for table in tables) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--count-per-category", 0), "--count-per-category 0: it must be at least 1"),
        (("--output", "nowhere/out.md"), "--output nowhere/out.md: there is no folder nowhere; make it first"),
        (("--output", "out.txt"), "--output out.txt: the name must end in .md, .csv or .json"),
        (("--compare", "plain,plain"), "contender 'plain' is named twice"),
        (("--synthetic-acceptance", "2"), "a chance lies between 0 and 1"),
        (("--compare", "near-chain3", "--synthetic-acceptance", "mean:9"), "drafts of near-chain3 are 3 deep"),
        (("--context", "40"), "prompt 1 has 86 tokens (4 of 4 are too long); a context of 40 has room for 39"),
        (("--context", "86", "--count", "1"), "prompt 1 has 86 tokens (1 of 1 are too long); a context of 86"),
        (("--temperature", "-1"), "temperature is -1.0, allowed: 0 to"),
        (("--plots", "README.md/plots"), "--plots README.md/plots: cannot make that folder"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_before_anything_is_measured(
    random_bundle: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], message: str
) -> None:
    assert _bench(random_bundle, *options) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (out, len(errors)) == ("", 1)
    assert message in errors[0]
