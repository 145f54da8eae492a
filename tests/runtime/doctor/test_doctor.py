"""The doctor finds what is wrong, says what to do, and writes reports that name nobody."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from memory.cores import Cores
from memory.device import Device
from runtime.__main__ import main
from runtime.doctor import bundle as bundle_module
from runtime.doctor import machine, software
from runtime.doctor.finding import Finding, Section, advice_in, section_lines
from runtime.doctor.privacy import without_names
from runtime.kernels.library import LibraryVerdict
from tests.places import ROOT

GOOD = LibraryVerdict("1", 1, "avx2", ("avx2", "portable"), ("avx2", "portable"))
GB = 10**9


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library that passed its test, and a cache of the test's own."""
    path = tmp_path / "libpocketspec.so"
    path.write_bytes(b"")
    monkeypatch.setattr(software, "library_path", lambda: path)
    monkeypatch.setattr(software, "verdict_on", lambda path, fresh: GOOD)
    monkeypatch.setattr(software, "_ranges", dict)
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "cache"))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["doctor", *arguments])
    return code, *capsys.readouterr()


def test_a_healthy_device_and_bundle_need_nothing(
    library: Path, random_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, str(random_bundle))
    assert code == 0, out
    for title in ("machine", "memory", "versions", "kernels", "caches", "bundle"):
        assert f"\n{title}\n" in f"\n{out}"
    assert "all is well" in out.splitlines()[-1]
    assert "4 tokens, as they should" in out
    assert "agree bit for bit at widths" in out


@pytest.mark.parametrize(
    ("about", "side"),
    [
        ("library", "failed, the library is wrong"),
        ("reference", "failed, what it compares with is wrong"),
        ("trial", "came to no end"),
    ],
)
def test_what_the_self_test_found_is_told_with_the_side_and_what_to_do(
    library: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, about: str, side: str
) -> None:
    verdict = replace(GOOD, fault="3 values of Y are not those specified; do this", about=about)
    monkeypatch.setattr(software, "verdict_on", lambda path, fresh: verdict)
    code, out, _ = run(capsys)
    assert code == 1
    assert f"! self-test  {side}\n" in out
    assert out.splitlines()[-1] == f" - {verdict.fault}"


def test_a_note_of_the_self_test_is_nothing_to_do(
    library: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "verdict_on", lambda path, fresh: replace(GOOD, note="worth knowing"))
    code, out, _ = run(capsys)
    assert (code, "worth knowing" in out) == (0, True)


def test_versions_outside_the_ranges_are_told(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    wanted = ["numpy>=1,<2", "jinja2>=3", 'torch>=99; extra == "export"', "not a requirement ;;"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted[:3])
    monkeypatch.setattr(metadata, "version", lambda name: "2.0.1" if name == "numpy" else "3.5")
    advice = advice_in([software.versions_section()])
    assert [line.split(":")[0] for line in advice] == [
        "numpy 2.0.1 is not one of those that were tried (<2,>=1)",
        "torch 3.5 is not one of those that were tried (>=99)",
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    assert advice_in([software.versions_section()]) == []


def test_a_cache_that_cannot_be_written_is_told(
    library: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETSPEC_CACHE", str(library / "cache"))
    code, out, _ = run(capsys)
    assert code == 1
    assert "set POCKETSPEC_CACHE to a folder that can be written" in out.splitlines()[-1]


def test_the_size_of_a_cache_follows_no_links(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "large").write_bytes(bytes(3_000_000))
    (tmp_path / "cache" / "packed").mkdir(parents=True)
    (tmp_path / "cache" / "packed" / "a").write_bytes(bytes(1_500_000))
    (tmp_path / "cache" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert ": 1.5 MB in 1 file, " in run(capsys)[1]


def test_a_damaged_bundle_is_told(
    library: Path, random_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(random_bundle, copy, ignore=shutil.ignore_patterns(".device"))
    (copy / "chat_template.jinja").write_text("another")
    code, out, _ = run(capsys, str(copy))
    assert code == 1
    assert "chat_template.jinja" in out.splitlines()[-1]
    assert run(capsys, str(tmp_path / "nowhere"))[0] == 1


def test_an_error_of_a_library_is_a_finding_and_no_traceback(
    library: Path, random_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 2\nnot as expected")

    monkeypatch.setattr(bundle_module.Engine, "open", fail)
    code, out, _ = run(capsys, str(random_bundle))
    assert code == 1
    assert "opening" in out
    assert "fails: [ONNXRuntimeError] : 2 not as expected" in out
    assert "tiny fails with RuntimeError: report it with --report FILE" in out.splitlines()[-1]


def test_limits_of_containers_are_told() -> None:
    cores = list(machine._machine(Cores(8, 2, 1.5, Path("/sys/fs/cgroup/cpu.max"))))
    assert cores[-1].value.splitlines() == [
        "2 can work at once",
        "the machine has 8 cores",
        "this process may run on 2 of them (affinity)",
        "/sys/fs/cgroup/cpu.max allows the time of 1.5 processors",
    ]
    roomy = list(machine._memory(Device(4 * GB, 3 * GB, container_bytes=4 * GB)))
    assert advice_in([Section("memory", tuple(roomy))]) == []
    assert Finding("container", "allows 4,000.0 MB") in roomy
    for limit, remedy in ((None, "close other programs"), (8 * 10**7, "raise the limit of the container")):
        tight = machine._memory(Device(4 * GB, 8 * 10**7, container_bytes=limit))
        (advice,) = advice_in([Section("memory", tuple(tight))])
        assert remedy in advice


def test_json_is_one_object(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--json")
    data = json.loads(out)
    assert (code, data["advice"]) == (0, [])
    assert [section["title"] for section in data["sections"]][:2] == ["machine", "memory"]


def test_a_report_names_nobody(
    library: Path,
    random_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "alice.smith"
    shutil.copytree(random_bundle, home / "private" / "model")
    monkeypatch.setattr(getpass, "getuser", lambda: "alice.smith")
    monkeypatch.setattr(platform, "node", lambda: "alices-box.example.org")
    monkeypatch.setattr(socket, "gethostname", lambda: "alices-box")
    monkeypatch.setenv("POCKETSPEC_CACHE", str(home / "cache"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    report = tmp_path / "report.txt"
    code, out, err = run(capsys, str(home / "private" / "model"), "--report", str(report))
    written = report.read_text(encoding="utf-8")
    assert code == 0
    assert "alice.smith" in out
    assert "look through it before you send it" in err
    for name in ("alice", "private", str(tmp_path), str(ROOT)):
        assert name not in written
    assert "BUNDLE" in written
    assert "CACHE" in written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mnt/data/carol/x.onnx is missing", "PATH/x.onnx is missing"),
        ("see 'C:\\Users\\carol\\m\\a.json'", "see 'PATH/a.json'"),
        ("/sys/fs/cgroup/docker/" + "ab" * 32 + "/cpu.max", "/sys/fs/cgroup/docker/ID/cpu.max"),
        ("12.5 tokens/s, see https://huggingface.co/Qwen/Qwen3-0.6B", None),
        ("and/or 3/4", None),
        ("user Carol on CAROLS-BOX", "user USER on HOST"),
        ("escargot, carols", None),
    ],
)
def test_what_is_personal_has_placeholders(monkeypatch: pytest.MonkeyPatch, text: str, expected: str | None) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "carol")
    monkeypatch.setattr(platform, "node", lambda: "carols-box")
    monkeypatch.setattr(socket, "gethostname", lambda: "carols-box")
    for name in ("USER", "USERNAME", "LOGNAME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/carol")
    assert without_names(text) == (text if expected is None else expected)


def test_a_report_goes_where_there_is_a_folder(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "--report", str(tmp_path / "none" / "report.txt"))
    assert code == 2
    assert "there is no folder" in err
    assert os.listdir(tmp_path) == ["libpocketspec.so"]


def test_advice_is_given_once() -> None:
    sections = [
        Section("a", (Finding("x", "1\n2", "do"), Finding("long name", "3"))),
        Section("b", (Finding("y", "", "do"),)),
    ]
    assert list(section_lines(sections)) == [
        "a",
        " ! x          1",
        "              2",
        "   long name  3",
        "",
        "b",
        " ! y  ",
        "",
        "what to do",
        " - do",
    ]
