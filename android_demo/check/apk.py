"""Assembles a debug APK: resources linked, classes dexed, aligned, signed with a key made on the spot, and verified.

It shows that the app's parts fit together. It is no release: an old dexer made it, and the native libraries of ONNX
Runtime and of the operators, which Gradle and the NDK bring, are not in it.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

from android_demo.check.compile import compile_app, compile_engine
from android_demo.check.places import APP, BUILD, DEMO, ENGINE
from android_demo.check.steps import StepError, build, files_below, run
from android_demo.check.tools import DEXER_JAR, ONNX_RUNTIME_JAR, Toolbox

_PASSWORD = "android"  # as that of every debug key
# The dexer knows lambdas and default methods from API 26 on, and no newer level.
_DEX_LEVEL = "26"
# Files that the engine's classes read.
_CARRIED = ENGINE / "main" / "resources"


def assemble(tools: Toolbox) -> Path:
    """The signed APK; StepError if a part does not fit."""
    resources = link_resources(tools)
    engine = compile_engine(tools)
    app = compile_app(tools, engine, resources)
    dexed = _dex(tools, [engine, app, app.with_name("resource-names")])
    output, carried = BUILD / "apk", files_below(_CARRIED)
    programs = [tools.program(name, name) for name in ("zipalign", "apksigner")]

    def make(folder: Path) -> None:
        unsigned, aligned, signed = (folder / f"{name}.apk" for name in ("unsigned", "aligned", "pocketspec-debug"))
        shutil.copy(resources / "base.apk", unsigned)
        with zipfile.ZipFile(unsigned, "a", zipfile.ZIP_DEFLATED) as packed:
            packed.write(dexed / "classes.dex", "classes.dex")
            for file in carried:
                packed.write(file, file.relative_to(_CARRIED))
        run([programs[0], "-f", "4", unsigned, aligned])
        key = ["--ks", _debug_key(tools), "--ks-pass", f"pass:{_PASSWORD}"]
        run([programs[1], "sign", *key, "--min-sdk-version", min_sdk(), "--out", signed, aligned])
        run([programs[0], "-c", "4", signed])
        print(run([programs[1], "verify", "--verbose", "--min-sdk-version", min_sdk(), signed]).splitlines()[0])
        unsigned.unlink()
        aligned.unlink()

    build(output, [resources, dexed, *carried], [min_sdk()], make)
    return output / "pocketspec-debug.apk"


def link_resources(tools: Toolbox) -> Path:
    """A folder with the linked resources, ``base.apk``, and the Java source of their names."""
    linker, framework = tools.program("aapt2", "aapt"), tools.resources()
    sources = files_below(APP / "res")

    def make(folder: Path) -> None:
        manifest = folder / "AndroidManifest.xml"
        manifest.write_text(_whole_manifest(), encoding="utf-8")
        run([linker, "compile", "--dir", APP / "res", "-o", folder / "compiled.zip"])
        names = folder / "names"
        levels = ["--min-sdk-version", min_sdk(), "--target-sdk-version", _number("targetSdk")]
        files = ["-o", folder / "base.apk", "-I", framework, "--manifest", manifest, "--java", names]
        run([linker, "link", "--warn-manifest-validation", *levels, *files, folder / "compiled.zip"])

    output = BUILD / "resources"
    build(output, [*sources, APP / "AndroidManifest.xml", DEMO / "app" / "build.gradle.kts"], [framework], make)
    return output


def min_sdk() -> str:
    """The oldest level of Android that the app runs on."""
    return _number("minSdk")


def _number(name: str) -> str:
    return _setting(rf"{name} = (\d+)")


def _setting(pattern: str) -> str:
    found = re.search(pattern, (DEMO / "app" / "build.gradle.kts").read_text(encoding="utf-8"))
    if found is None:
        raise StepError(f"app/build.gradle.kts has no {pattern}")
    return found[1]


def _whole_manifest() -> str:
    """The manifest with what Gradle adds to it: the package."""
    text = (APP / "AndroidManifest.xml").read_text(encoding="utf-8")
    package = _setting(r'namespace = "([\w.]+)"')
    version = f'android:versionCode="{_number("versionCode")}" package="{package}"'
    return text.replace("<manifest ", f"<manifest {version} ", 1)


def _dex(tools: Toolbox, classes: list[Path]) -> Path:
    dexer, runtime = tools.jar(DEXER_JAR), tools.jar(ONNX_RUNTIME_JAR)
    standard = tools.kotlin() / "kotlin-stdlib.jar"

    def make(folder: Path) -> None:
        plain = folder / "standard.jar"
        _without_newer_versions(standard, plain)
        options = ["--dex", f"--min-sdk-version={_DEX_LEVEL}", f"--output={folder / 'classes.dex'}"]
        program = [tools.java("java"), "-Xmx1g", "-cp", dexer, "com.android.dx.command.Main"]
        run([*program, *options, *classes, runtime, plain])
        plain.unlink()

    output = BUILD / "dex"
    build(output, [*classes, dexer, runtime, standard], [_DEX_LEVEL], make)
    return output


def _without_newer_versions(jar: Path, output: Path) -> None:
    """A copy without the classes for newer Java releases, which the dexer cannot read."""
    with zipfile.ZipFile(jar) as source, zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as kept:
        for entry in source.infolist():
            if not entry.filename.startswith("META-INF/versions/") and not entry.is_dir():
                kept.writestr(entry, source.read(entry))


def _debug_key(tools: Toolbox) -> Path:
    key = BUILD / "debug.keystore"
    if not key.is_file():
        BUILD.mkdir(parents=True, exist_ok=True)
        who = ["-alias", "androiddebugkey", "-dname", "CN=Android Debug", "-keyalg", "RSA", "-validity", "10000"]
        run([tools.java("keytool"), "-genkeypair", "-keystore", key, "-storepass", _PASSWORD, *who])
    return key
