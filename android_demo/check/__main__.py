"""``python -m android_demo.check``: builds and tests the demo; what cannot be done here is skipped, and said last."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from android_demo.check.apk import assemble
from android_demo.check.compile import compile_engine
from android_demo.check.fetch import fetch_kotlin, fetch_resources
from android_demo.check.fixtures import write_fixtures
from android_demo.check.junit import JvmTest, Selection, prepare_tests, run_tests
from android_demo.check.lock import one_build
from android_demo.check.places import tool_folders
from android_demo.check.steps import StepError
from android_demo.check.tools import Fetchers, MissingToolError, Toolbox

_STAGES = ("compile", "test", "apk")
_COMPARE = "compare"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stages; 0 if none failed, 1 if one did."""
    options = parse(arguments)
    fetchers = Fetchers() if options.offline else Fetchers(fetch_kotlin, fetch_resources)
    tools = Toolbox(tool_folders(), fetchers)
    stages = {
        "compile": lambda: _compile(tools),
        "test": lambda: _test(tools, options),
        "apk": lambda: _apk(tools),
        _COMPARE: lambda: _compare(tools, options.compare),
    }
    skipped, failed = [], False
    with one_build():
        for name in (_COMPARE,) if options.compare else options.only or _STAGES:
            try:
                failed = not stages[name]() or failed
            except MissingToolError as missing:
                print(f"{name}: SKIPPED: {missing}", flush=True)
                skipped.append(f"{name}: {missing}")
            except StepError as error:
                print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
                failed = True
                break
    print(_last_line(failed, skipped))
    return int(failed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser("python -m android_demo.check", description=__doc__.partition(": ")[2])
    parser.add_argument("--only", action="append", choices=_STAGES, help="this stage alone; may be given again")
    parser.add_argument("--tests", choices=("quick", "slow", "all"), default="all", help="which tests; all by default")
    parser.add_argument("--long", action="store_true", help="2,000 texts of each tokenizer, 1,000 requests for plans")
    parser.add_argument("--class", dest="classes", action="append", help="these tests alone: a class, package included")
    parser.add_argument(
        "--compare", type=Path, metavar="BUNDLE", help="tokens a second beside Python's with this bundle, nothing else"
    )
    parser.add_argument("--offline", action="store_true", help="fetch no tools")
    return parser.parse_args(arguments)


def _compile(tools: Toolbox) -> bool:
    compile_engine(tools)
    print("compile: the engine is compiled", flush=True)
    return True


def _test(tools: Toolbox, options: argparse.Namespace) -> bool:
    selection: Selection = options.tests
    compiled = prepare_tests(tools)
    write_fixtures(options.long)
    results = run_tests(compiled, selection, options.classes)
    for result in results:
        if result.outcome != "passed":
            print(f"{result.outcome} {result.name}: {result.message}", flush=True)
    print(f"test: {_counted(results)}", flush=True)
    return all(result.outcome != "failed" for result in results)


def _apk(tools: Toolbox) -> bool:
    print(f"apk: {assemble(tools)}", flush=True)
    return True


def _compare(tools: Toolbox, bundle: Path) -> bool:
    from android_demo.check.speed import compare  # Python's engine, which nothing else here needs

    for line in compare(prepare_tests(tools), bundle):
        print(f"compare: {line}", flush=True)
    return True


def _counted(results: Sequence[JvmTest]) -> str:
    outcomes = [result.outcome for result in results]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in ("passed", "failed", "skipped"))
    return f"{counts} in {sum(result.seconds for result in results):.1f} s"


def _last_line(failed: bool, skipped: Sequence[str]) -> str:
    state = "FAILED" if failed else "passed"
    return f"android: {state}; skipped: {'; '.join(skipped)}" if skipped else f"android: {state}, nothing skipped"


if __name__ == "__main__":
    sys.exit(main())
