"""Reports of the test runner are read as they were meant, and one that ends early is no success."""

from __future__ import annotations

from pathlib import Path

import pytest

from android_demo.check import junit
from android_demo.check.junit import CompiledTests, run_tests
from android_demo.check.steps import StepError
from android_demo.check.tools import Toolbox


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompiledTests:
    """Two classes of tests, and others; nothing is started."""
    for name in ("ATest.class", "inner/BTest.class", "ATest$one.class", "Helper.class"):
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()
    monkeypatch.setattr(junit, "test_classpath", lambda *_: [])
    monkeypatch.setattr(junit, "environment", lambda _: {})
    monkeypatch.setattr(Toolbox, "java", lambda *_: Path("java"))
    return CompiledTests(Toolbox([]), tmp_path, tmp_path, tmp_path)


def _report(monkeypatch: pytest.MonkeyPatch, text: str) -> list[list[str]]:
    """What the runner is asked for; it writes ``text``."""
    asked = []

    def run(command: list[object], **_: object) -> str:
        words = [str(word) for word in command]
        place = words.index("dev.pocketspec.TestRunnerKt")
        asked.append(words[place + 2 :])
        Path(words[place + 1]).write_text(text, encoding="utf-8")
        return "printed"

    monkeypatch.setattr(junit, "run", run)
    return asked


def test_results_are_read_and_classes_found(compiled: CompiledTests, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "passed\tdev.ATest\tworks\t12\t\nfailed\tdev.inner.BTest\tbreaks\t3\tone\\ntwo\\\\n\u2028\nend\t2\n"
    asked = _report(monkeypatch, text)
    first, second = run_tests(compiled, "quick")
    assert asked == [["quick", "dev.pocketspec.Slow", "dev.ATest", "dev.inner.BTest"]]
    assert (first.outcome, first.name, first.seconds, first.message) == ("passed", "ATest.works", 0.012, "")
    assert (second.outcome, second.name, second.message) == ("failed", "BTest.breaks", "one\ntwo\\n\u2028")


@pytest.mark.parametrize("text", ["", "passed\tdev.ATest\tworks\t12\t\n"])
def test_a_process_that_ends_early_is_a_failure(
    compiled: CompiledTests, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    _report(monkeypatch, text)
    with pytest.raises(StepError, match=r"ended early(.|\n)*printed"):
        run_tests(compiled, "all")
