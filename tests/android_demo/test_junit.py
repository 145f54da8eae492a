"""The engine's JUnit tests on the desktop JVM, each reported as a test of its own; skipped where tools are missing.

The gate runs the quick ones, if the classes are compiled already: that takes minutes of a small machine, and belongs to
``make android``. The slow test runs the whole chain, fresh if need be.
"""

from __future__ import annotations

import pytest

from android_demo.check.__main__ import main
from android_demo.check.junit import JvmTest, prepare_tests, run_tests
from android_demo.check.lock import one_build
from android_demo.check.places import tool_folders
from android_demo.check.tools import MissingToolError, Toolbox
from tests.android_demo.kotlin_files import TESTS, read

NAMES = [name for file in read(TESTS) for name in file.tests()]
Results = dict[str, JvmTest]


@pytest.fixture(scope="session")
def quick_results() -> Results:
    """What became of the quick tests, which run once."""
    try:
        with one_build():
            compiled = prepare_tests(Toolbox(tool_folders(), may_compile=False))
            results = run_tests(compiled, "quick")
    except MissingToolError as missing:
        pytest.skip(f"ANDROID TESTS SKIPPED: {missing}")
    return {result.name: result for result in results}


@pytest.mark.parametrize("name", NAMES)
def test_kotlin(name: str, quick_results: Results) -> None:
    result = quick_results.get(name)
    if result is None:
        pytest.skip("a slow one; make android runs it")
    if result.outcome == "skipped":
        pytest.skip(result.message)
    assert result.outcome == "passed", result.message


def test_every_result_belongs_to_a_test(quick_results: Results) -> None:
    assert quick_results.keys() <= set(NAMES)


@pytest.mark.slow
def test_the_whole_chain(capsys: pytest.CaptureFixture[str]) -> None:
    """Compiles, runs all tests, and assembles the APK, with the tools that are here."""
    code = main(["--offline", "--long"])
    printed = capsys.readouterr()
    assert code == 0, printed.out + printed.err
    last = printed.out.strip().splitlines()[-1]
    if "nothing skipped" not in last:
        pytest.skip(last)
    assert "Verifies" in printed.out or "apk:" in printed.out
