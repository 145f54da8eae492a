"""Every page of measurements says by which command, on which machine, with which versions and when."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

import pytest

from export.manifest import write_manifest
from memory.__main__ import main
from memory.commands import verify
from memory.machine import measured_on, this_command, versions
from memory.process import REFERENCE
from tests.memory.manifests import PAIR
from tests.places import ROOT

PAGES = ("MEASURED.md", "MEMORY.md", "SPEED.md")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def test_one_line_names_the_machine_the_versions_and_the_day() -> None:
    line = measured_on()
    assert f"{platform.system()} {platform.machine()}; Python {platform.python_version()}, pocketspec " in line
    assert DAY.fullmatch(line.rpartition("; ")[2])
    assert versions(("no-such-package",))["no-such-package"] == "(not installed as a package)"


def test_the_command_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "verify", "my bundle", "--sweep"])
    assert this_command("memory") == "python -m memory verify 'my bundle' --sweep"


def test_a_sweep_begins_with_its_command_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path, PAIR)
    monkeypatch.setattr(sys, "argv", ["memory", "verify", str(tmp_path), "--sweep"])
    monkeypatch.setattr("memory.commands.plan.find_process", REFERENCE.__getitem__)
    monkeypatch.setattr(verify, "sweep_plans", lambda *inputs: iter(()))
    assert main(sys.argv[1:]) == 0
    command, blank, machine, *_ = capsys.readouterr().out.splitlines()
    assert command == f"`python -m memory verify {tmp_path} --sweep`"
    assert (blank, machine) == ("", f"{measured_on()}.")
    assert main([*sys.argv[1:], "--json"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("page", PAGES)
def test_pages_of_the_demo_have_that_header(page: str) -> None:
    command, blank, machine, *_ = (ROOT / "export/demo" / page).read_text(encoding="utf-8").splitlines()
    assert command.startswith("`python -m ")
    assert not blank
    assert re.match(r".+; Python [\d.]+, .+; \d{4}-\d{2}-\d{2}[.;]", machine)
