"""Finds the tools of the chain, and says of a missing one how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from android_demo.check.places import VARIABLE

ONNX_RUNTIME_JAR = "onnxruntime-java-1.17.0.jar"
ANDROID_JAR = "android-23.jar"
DEXER_JAR = "dx.jar"
KOTLIN_VERSION = "2.1.21"
_ORIGINS = {
    ONNX_RUNTIME_JAR: "the classes and JNI libraries of com.microsoft.onnxruntime:onnxruntime:1.17.0",
    ANDROID_JAR: "android.jar of API 23, Debian package libandroid-23-java",
    DEXER_JAR: "com.android.dx.jar of the Debian package dalvik-exchange",
}
_JAVA_FOLDER = Path("/usr/share/java")
_RESOURCES = Path("/usr/share/android-framework-res/framework-res.apk")


class MissingToolError(Exception):
    """A tool that is not here; the message names it and says how to get it."""

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f"{name} is missing ({remedy})")


@dataclass(frozen=True)
class Fetchers:
    """What gets a missing tool into a folder of tools; each is None where nothing may be downloaded."""

    kotlin: Callable[[Path], None] | None = None
    resources: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Toolbox:
    """The tools in ``folders`` and of the system; the first of the folders is where missing ones are fetched to.

    Unless it ``may_compile``, what kotlinc has not compiled before counts as missing, too.
    """

    folders: Sequence[Path]
    fetchers: Fetchers = Fetchers()
    may_compile: bool = True

    def kotlin(self) -> Path:
        """The folder of kotlinc's jars, in which ``kotlin-compiler.jar`` and the standard library are."""
        place = f"kotlinc-{KOTLIN_VERSION}/lib"
        return self._fetched(f"{place}/kotlin-compiler.jar", self.fetchers.kotlin, "make android fetches it").parent

    def resources(self) -> Path:
        """The framework's resources, which those of the app refer to."""
        if _RESOURCES.is_file():
            return _RESOURCES
        remedy = "apt-get install android-framework-res"
        return self._fetched("framework-res.apk", self.fetchers.resources, remedy)

    def jar(self, name: str) -> Path:
        """A file that is hard to get elsewhere, one of ``_ORIGINS``."""
        found = self._find(name)
        if found is None:
            raise MissingToolError(name, f"put {_ORIGINS[name]}, into a folder and name it in {VARIABLE}")
        return found

    def java(self, program: str) -> Path:
        """A program of the Java development kit: that of JAVA_HOME, or of the path."""
        home = os.environ.get("JAVA_HOME")
        found = shutil.which(program, path=str(Path(home) / "bin")) if home else None
        found = found or shutil.which(program)
        if found is None:
            raise MissingToolError(program, "install a JDK, version 17 or later, and set JAVA_HOME")
        return Path(found)

    def program(self, name: str, package: str) -> Path:
        """A program of the path, which Debian has in ``package``."""
        found = shutil.which(name)
        if found is None:
            raise MissingToolError(name, f"apt-get install {package}")
        return Path(found)

    def junit(self) -> tuple[Path, ...]:
        """JUnit 4 and what it needs."""
        jars = tuple(self._find(f"{name}.jar") or _JAVA_FOLDER / f"{name}.jar" for name in ("junit4", "hamcrest-core"))
        if not all(jar.is_file() for jar in jars):
            raise MissingToolError("junit4", f"apt-get install junit4, or put its jars into a folder of {VARIABLE}")
        return jars

    def onnx_runtime(self) -> Path:
        """The shared library of the Python package."""
        pattern = {"darwin": "libonnxruntime.*.dylib", "win32": "onnxruntime.dll"}.get(
            sys.platform, "libonnxruntime.so.*"
        )
        libraries = [library for folder in onnx_runtime_folders() for library in sorted(folder.glob(pattern))]
        if not libraries:
            raise MissingToolError("the library of onnxruntime", "pip install onnxruntime")
        return libraries[-1]

    def _fetched(self, name: str, fetch: Callable[[Path], None] | None, remedy: str) -> Path:
        found = self._find(name)
        if found is None and fetch is not None:
            fetch(self.folders[0])
            found = self._find(name)
        if found is None:
            raise MissingToolError(name, remedy)
        return found

    def _find(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).exists()), None)


def onnx_runtime_folders() -> list[Path]:
    """Where the Python package has its shared library."""
    found = importlib.util.find_spec("onnxruntime")
    return [Path(place) / "capi" for place in (found.submodule_search_locations or ())] if found else []
