"""What is missing is named with its remedy, skipped, and no failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from android_demo.check import __main__ as command
from android_demo.check import native, tools
from android_demo.check.steps import StepError
from android_demo.check.tools import (
    ANDROID_JAR,
    DEXER_JAR,
    KOTLIN_VERSION,
    ONNX_RUNTIME_JAR,
    Fetchers,
    MissingToolError,
    Toolbox,
)


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolbox:
    """A machine without any of the tools."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(tools, "_JAVA_FOLDER", tmp_path)
    monkeypatch.setattr(tools, "_RESOURCES", tmp_path / "framework-res.apk")
    monkeypatch.setattr(tools, "onnx_runtime_folders", list)
    return Toolbox([tmp_path])


def test_every_missing_tool_is_named_with_its_remedy(nothing: Toolbox) -> None:
    wanted = {
        "kotlin-compiler.jar": nothing.kotlin,
        "framework-res.apk": nothing.resources,
        "java ": lambda: nothing.java("java"),
        "aapt2": lambda: nothing.program("aapt2", "aapt"),
        "junit4": nothing.junit,
        "onnxruntime": nothing.onnx_runtime,
        ONNX_RUNTIME_JAR: lambda: nothing.jar(ONNX_RUNTIME_JAR),
        ANDROID_JAR: lambda: nothing.jar(ANDROID_JAR),
        DEXER_JAR: lambda: nothing.jar(DEXER_JAR),
    }
    for name, get in wanted.items():
        with pytest.raises(MissingToolError, match=r"is missing \(.*(apt-get|make android|put|install)") as missing:
            get()
        assert name in str(missing.value)


def test_without_tools_all_is_skipped_and_nothing_fails(
    nothing: Toolbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "tool_folders", lambda: nothing.folders)
    assert command.main(["--offline"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["compile", "test", "apk"]
    assert all("SKIPPED" in line for line in lines[:-1])
    assert lines[-1].startswith("android: passed; skipped: compile: ")
    assert command.main(["--offline", "--compare", "bundle"]) == 0
    (line, _) = capsys.readouterr().out.strip().splitlines()
    assert line.startswith("compare: SKIPPED: ")


def test_a_stage_that_fails_ends_the_chain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> bool:
        raise StepError("java ended with code 1")

    monkeypatch.setattr(command, "_compile", fail)
    assert command.main(["--offline"]) == 1
    printed = capsys.readouterr()
    assert "FAILED: java ended with code 1" in printed.err
    assert printed.out.strip() == "android: FAILED, nothing skipped"


def test_tools_are_fetched_once_and_found_again(tmp_path: Path) -> None:
    fetched = []

    def fetch(folder: Path) -> None:
        fetched.append(folder)
        place = folder / f"kotlinc-{KOTLIN_VERSION}" / "lib"
        place.mkdir(parents=True)
        (place / "kotlin-compiler.jar").touch()

    box = Toolbox([tmp_path / "own", tmp_path / "other"], Fetchers(kotlin=fetch))
    assert box.kotlin() == box.kotlin() == tmp_path / "own" / f"kotlinc-{KOTLIN_VERSION}" / "lib"
    assert fetched == [tmp_path / "own"]


def test_what_the_user_names_comes_before_what_lies_beside_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from android_demo.check.places import VARIABLE, tool_folders

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert tool_folders()[1] == tmp_path


def test_other_systems_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.sys, "platform", "darwin")
    with pytest.raises(MissingToolError, match="JNI library for this system"):
        native.native_folder(Toolbox([]))
