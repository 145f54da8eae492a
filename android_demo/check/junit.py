"""Runs the engine's JUnit tests on the desktop JVM, and reads what became of each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from android_demo.check.compile import compile_engine, compile_tests, test_classpath
from android_demo.check.native import environment, native_folder
from android_demo.check.places import ENGINE, ROOT
from android_demo.check.steps import StepError, files_below, run
from android_demo.check.tools import Toolbox
from runtime.kernels.build import LIBRARY

Selection = Literal["quick", "slow", "all"]
_SLOW, _RUNNER = "dev.pocketspec.Slow", "dev.pocketspec.TestRunnerKt"
_NAME_END = "Test.class"


@dataclass(frozen=True)
class CompiledTests:
    """Folders of classes, ready to run."""

    tools: Toolbox
    engine: Path
    tests: Path
    native: Path

    def names(self) -> list[str]:
        """The classes of tests: those whose names end with "Test"."""
        places = (file.relative_to(self.tests) for file in files_below(self.tests, suffixes=(".class",)))
        return [".".join(place.with_suffix("").parts) for place in places if place.name.endswith(_NAME_END)]


@dataclass(frozen=True)
class JvmTest:
    """What became of one test; ``message`` has the stack trace of a failure, or why it was skipped."""

    outcome: str
    class_name: str
    method: str
    seconds: float
    message: str

    @property
    def name(self) -> str:
        """Class and method, as "Class.method" without the package."""
        return f"{self.class_name.rpartition('.')[2]}.{self.method}"


def prepare_tests(tools: Toolbox) -> CompiledTests:
    """Compiles what has changed."""
    engine = compile_engine(tools)
    return CompiledTests(tools, engine, compile_tests(tools, engine), native_folder(tools))


def jvm(compiled: CompiledTests) -> list[str]:
    """The command that starts the JVM with engine and tests; a class and its arguments are to follow."""
    resources = [ENGINE / "test" / "resources", ENGINE / "main" / "resources"]
    classpath = [compiled.tests, *resources, *test_classpath(compiled.tools, compiled.engine)]
    return [
        str(compiled.tools.java("java")),
        "-Xmx512m",
        "-XX:MaxDirectMemorySize=2g",
        "-XX:+UseSerialGC",
        "-Dfile.encoding=UTF-8",
        f"-Donnxruntime.native.path={compiled.native}",
        f"-Dpocketspec.root={ROOT}",
        f"-Dpocketspec.kernels={LIBRARY if LIBRARY.is_file() else ''}",
        "-cp",
        os.pathsep.join(map(str, classpath)),
    ]


def run_tests(compiled: CompiledTests, selection: Selection, names: Sequence[str] | None = None) -> list[JvmTest]:
    """Runs classes of tests, all by default, in one process. StepError if the process dies."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        words = [_RUNNER, str(report), selection, _SLOW, *(compiled.names() if names is None else names)]
        printed = run([*jvm(compiled), *words], environment=environment(compiled.tools))
        # Messages may have separators of lines other than this one.
        lines = report.read_text(encoding="utf-8").rstrip("\n").split("\n")
    if not lines[-1].startswith("end\t"):
        raise StepError(f"the tests ended early, after {lines[-1] or 'nothing'}\n{printed.rstrip()}")
    return [_read(line) for line in lines[:-1]]


def _read(line: str) -> JvmTest:
    outcome, class_name, method, milliseconds, message = line.split("\t")
    text = "\\".join(part.replace("\\n", "\n") for part in message.split("\\\\"))
    return JvmTest(outcome, class_name, method, int(milliseconds) / 1000, text)
