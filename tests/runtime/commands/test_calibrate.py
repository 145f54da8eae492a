"""``python -m runtime calibrate``, as a user calls it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from memory.costs import parse_costs
from runtime.__main__ import main
from runtime.bundle.device_cache import device_folder
from runtime.calibration import measure, rows
from runtime.calibration.rows import Effort


@pytest.fixture
def bundle(random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of one's own, and less patience for it."""
    monkeypatch.setattr(rows, "FULL", Effort((1, 4, 64), (16, 64), turns=1, seconds=1))
    monkeypatch.setattr(measure.loop, "FULL", measure.loop.Patience(3, 0.1))
    return Path(shutil.copytree(random_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("costs-*")))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["calibrate", *arguments, "--threads", "1"])
    return (code, *capsys.readouterr())


def records(bundle: Path) -> list[str]:
    return [path.name.split("-")[1] for path in sorted(device_folder(bundle).glob("costs-*"))]


def test_it_prints_tables_writes_json_and_keeps_the_whole_form(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "costs.json"
    code, out, err = run(capsys, str(bundle), "--output", str(output))
    assert code == 0
    assert "note: timing forwards" in err
    assert "bit for bit" not in err
    command, _, machine, _, first, *_ = out.splitlines()
    assert command.startswith("`python -m runtime ")
    assert "; Python " in machine
    assert first == "tiny on this device: portable kernels, 1 thread"
    for name in ("tiny", "near", "far"):
        assert f"| {name}: rows | ms behind 16 | x 1 row | ms behind 64 | x 1 row |" in out
        assert f"{name}: a step of one row takes " in out
    assert out.count("\n| 64 |") == 3
    costs = parse_costs(output.read_text())
    assert (list(costs.levels), costs.quick) == (["tiny", "near", "far"], False)
    assert records(bundle) == ["full"]


def test_the_short_form_and_a_report_for_people(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, str(bundle), "--quick", "--output", str(tmp_path / "costs.md"))
    assert code == 0
    assert "1 thread, the short form" in out
    assert (tmp_path / "costs.md").read_text() == out
    assert records(bundle) == ["quick"]


def test_an_interrupt_stores_nothing_and_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.loop, "measure_loop", interrupted)
    code, out, err = run(capsys, str(bundle), "--output", str(tmp_path / "costs.json"))
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "note: interrupted: nothing was stored"
    assert records(bundle) == []
    assert not (tmp_path / "costs.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--output", "costs.txt"), "--output costs.txt: the name must end in .md or .json"),
        (("--kernels", "native"), "tiny has fp32 weights"),
        (("--max-memory", "1MB"), "bytes are "),
    ],
)
def test_refusals_are_one_line(
    capsys: pytest.CaptureFixture[str], bundle: Path, more: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, str(bundle), *more)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert message in err.splitlines()[-1]
