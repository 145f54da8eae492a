"""ONNX Runtime for the desktop JVM: the JNI library of an older Java release over the library of the Python package."""

from __future__ import annotations

import os
import platform
import sys
import zipfile
from pathlib import Path

from android_demo.check.places import BUILD, HERE
from android_demo.check.steps import build, run
from android_demo.check.tools import ONNX_RUNTIME_JAR, MissingToolError, Toolbox

_JNI = "libonnxruntime4j_jni.so"
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "aarch64", "arm64": "aarch64"}


def native_folder(tools: Toolbox) -> Path:
    """The folder that the JVM's property ``onnxruntime.native.path`` is to name; compiled if need be."""
    machine = _MACHINES.get(platform.machine().lower())
    if sys.platform != "linux" or machine is None:
        raise MissingToolError("a JNI library for this system", "the extract has those of Linux, x86-64 and AArch64")
    jar, compiler = tools.jar(ONNX_RUNTIME_JAR), tools.program("cc", "gcc")
    sources = [HERE / "shim.c", HERE / "shim.map"]

    def make(folder: Path) -> None:
        with zipfile.ZipFile(jar) as packed:
            (folder / _JNI).write_bytes(packed.read(f"ai/onnxruntime/native/linux-{machine}/{_JNI}"))
        flags = ["-O2", "-shared", "-fPIC", "-Wl,-soname,libonnxruntime.so.1.17.0"]
        flags.append(f"-Wl,--version-script={sources[1]}")
        run([compiler, *flags, sources[0], "-o", folder / "libonnxruntime.so", "-ldl"])

    folder = BUILD / "native"
    build(folder, [*sources, jar], [machine], make)
    return folder


def environment(tools: Toolbox) -> dict[str, str]:
    """The variables with which the shim finds the library of the Python package."""
    return {**os.environ, "ORT_REAL_LIB": str(tools.onnx_runtime())}
