"""Compiles the engine, its tests and the app with kotlinc, each into a folder of classes.

Engine and app see the Java classes of Android's API 23 alone, if its jar is here, and those of Java 8 otherwise: what a
phone does not have is an error here. Lambdas become classes, because Android has no LambdaMetafactory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from android_demo.check.places import APP, BUILD, ENGINE
from android_demo.check.steps import build, files_below, fingerprint, is_current, run
from android_demo.check.tools import ANDROID_JAR, KOTLIN_VERSION, ONNX_RUNTIME_JAR, MissingToolError, Toolbox

CLASSES = BUILD / "classes"
_COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
_FLAGS = ("-jvm-target", "1.8", "-Xlambdas=class", "-Xsam-conversions=class", "-Werror")


def compile_engine(tools: Toolbox) -> Path:
    """The classes of the engine."""
    classpath = [tools.jar(ONNX_RUNTIME_JAR), tools.kotlin() / "kotlin-stdlib.jar"]
    try:
        classpath, options = [tools.jar(ANDROID_JAR), *classpath], ["-no-jdk"]
    except MissingToolError:
        options = ["-Xjdk-release=8"]
    return _kotlin(tools, "engine", ENGINE / "main" / "kotlin", classpath, options)


def compile_tests(tools: Toolbox, engine: Path) -> Path:
    """The classes of the engine's tests, which see what is internal to it."""
    return _kotlin(
        tools, "test", ENGINE / "test" / "kotlin", test_classpath(tools, engine), [f"-Xfriend-paths={engine}"]
    )


def compile_app(tools: Toolbox, engine: Path, resources: Path) -> Path:
    """The classes of the app; ``resources`` is a folder with the Java source of its resource names."""
    android, runtime = tools.jar(ANDROID_JAR), tools.jar(ONNX_RUNTIME_JAR)
    standard = tools.kotlin() / "kotlin-stdlib.jar"
    names = compile_java(tools, "resource-names", files_below(resources, suffixes=(".java",)), [android])
    return _kotlin(tools, "app", APP / "kotlin", [android, engine, runtime, names, standard], ["-no-jdk"])


def compile_java(tools: Toolbox, name: str, sources: Sequence[Path], classpath: Sequence[Path]) -> Path:
    """The classes of Java sources, for Java 8."""
    output = CLASSES / name
    flags = ["--release", "8", "-Xlint:-options", "-encoding", "UTF-8", "-cp", _joined(classpath)]

    def make(folder: Path) -> None:
        run([tools.java("javac"), *flags, "-d", folder, *sources])

    build(output, [*sources, *classpath], flags, make)
    return output


def test_classpath(tools: Toolbox, engine: Path) -> list[Path]:
    """What the tests need beside their own classes."""
    library = tools.kotlin()
    jars = [library / f"{name}.jar" for name in ("kotlin-stdlib", "kotlin-test", "kotlin-test-junit")]
    return [engine, tools.jar(ONNX_RUNTIME_JAR), *jars, *tools.junit()]


def _kotlin(tools: Toolbox, name: str, source: Path, classpath: Sequence[Path], options: Sequence[str]) -> Path:
    sources = files_below(source, suffixes=(".kt",))
    flags = [*_FLAGS, *options, "-module-name", name, "-cp", _joined(classpath)]

    def make(folder: Path) -> None:
        print(f"compiling {name}: {len(sources)} files", flush=True)
        printed = _kotlinc(tools, [*flags, "-d", str(folder), *map(str, sources)])
        if printed.strip():
            print(printed.rstrip(), flush=True)

    output, inputs, settings = CLASSES / name, [*sources, *classpath], [KOTLIN_VERSION, *flags]
    if not tools.may_compile and not is_current(output, inputs, settings):
        raise MissingToolError(f"what kotlinc makes of the {name} as it is now", "make android compiles it")
    build(output, inputs, settings, make)
    return output


def _kotlinc(tools: Toolbox, arguments: Sequence[str]) -> str:
    """Runs the compiler. Its own classes are loaded from an archive, which its first run leaves: half of its time."""
    library, java = tools.kotlin(), tools.java("java")
    archive = BUILD / f"kotlinc-{fingerprint([], [java.resolve(), library.resolve()])[:16]}.jsa"
    kept = f"-XX:{'SharedArchiveFile' if archive.is_file() else 'ArchiveClassesAtExit'}={archive}"
    machine = [
        java,
        "-Xmx1g",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xlog:cds=off",
        "-Xlog:cds+dynamic=off",
        kept,
    ]
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "arguments"
        quoted = ('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in arguments)
        words.write_text("\n".join(quoted), encoding="utf-8")
        home = ["-kotlin-home", str(library.parent), "-no-stdlib", "-no-reflect", f"@{words}"]
        return run([*machine, "-cp", library / "kotlin-compiler.jar", _COMPILER, *home])


def _joined(places: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, places))
