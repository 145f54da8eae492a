"""Examines the versions of installed packages, and whether the native kernels can be used."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from runtime.doctor.finding import Finding, Section
from runtime.kernels.library import PLAIN, LibraryVerdict, library_path, verdict_on

_OWN = "pocketspec"
# Packages that run bundles; the others, if installed, make them.
_NEEDED = ("onnxruntime", "numpy", "tokenizers", "jinja2", "onnx", "rich")
_OPTIONAL = ("transformers", "torch")
# Which side a failed self-test found to be wrong, by the ``about`` of the verdict.
_SIDES = {
    "library": "failed, the library is wrong",
    "reference": "failed, what it compares with is wrong",
    "trial": "came to no end",
}


def versions_section() -> Section:
    """Packages, and whether they are in the range that this version was made for."""
    return Section("versions", tuple(_versions()))


def kernels_section() -> Section:
    """The native library and its self-test, which is run now."""
    return Section("kernels", tuple(_kernels(verdict_on(library_path(), fresh=True))))


def _versions() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} ({platform.python_implementation()})")
    ranges = _ranges()
    for name in (_OWN, *_NEEDED, *_OPTIONAL):
        found = _version(name)
        if found is not None:
            yield Finding(name, found, _version_advice(name, found, ranges.get(name)))
        elif name in _NEEDED:
            yield Finding(name, "not installed under this name")  # for example another build of ONNX Runtime


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ranges() -> dict[str, str]:
    """The versions that this package allows, by name, extras included; empty if it was not installed."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(line) for line in metadata.requires(_OWN) or ()]
    except (ImportError, ValueError, metadata.PackageNotFoundError):
        return {}
    return {each.name: str(each.specifier) for each in wanted if str(each.specifier)}


def _version_advice(name: str, version: str, allowed: str | None) -> str | None:
    if allowed is None:
        return None
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(allowed).contains(version, prereleases=True):
        return None
    return f"{name} {version} is not one of those that were tried ({allowed}): pip install '{name}{allowed}'"


def _kernels(verdict: LibraryVerdict) -> Iterator[Finding]:
    path = library_path()
    yield Finding("library", str(path) if path.is_file() else "not built")
    if verdict.fault is not None:
        found = _SIDES.get(verdict.about, "failed") if path.is_file() else "not run"
        yield Finding("self-test", found, verdict.fault)
        yield Finding("in use", "portable (ONNX Runtime's own)")
        return
    yield Finding("self-test", f"passed (version {verdict.version}, layout {verdict.layout})")
    if verdict.note is not None:
        yield Finding("note", verdict.note)
    yield Finding("in the library", ", ".join(verdict.compiled))
    if verdict.isa == PLAIN:
        yield Finding("in use", "portable: the library has nothing faster than plain C++ for this processor")
    else:
        yield Finding("in use", f"native ({verdict.isa})")
