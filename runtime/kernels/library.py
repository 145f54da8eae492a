"""Finds the library of native kernels and decides whether it may be used.

A library must never give a wrong number because of another compiler, processor or ONNX Runtime. So its self-test runs
before it is used with one of them for the first time, in a process of its own, where a crash does no harm. The verdict
is stored for this library, this processor and this ONNX Runtime; only a library that passed is loaded.

A result that says nothing about the library is not stored, and the next start tests again: a time-out, a process that
could not start, an error in the test, a wrong reference. A crash is not stored either: too little memory or a small
stack can crash a correct library as well, and a test that crashes again costs a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle_files import sha256_of
from export.manifest import PocketspecError
from memory.child import crash_of, run_module
from runtime.bundle.device_cache import device_key, forget, look_up, remember, user_folder
from runtime.kernels.build import LIBRARY, LIBRARY_NAME, SOURCES
from runtime.kernels.threads import CREW_ENTRY, new_crew_number
from runtime.kernels.weights.layout import LAYOUT_VERSION

if TYPE_CHECKING:
    import onnxruntime as ort

# The instruction set for any processor: plain C++.
PLAIN = "portable"
BUILD_COMMAND = "python -m runtime kernels --build"
# The test takes a second, on a busy phone much longer; one that hangs must not hang the user.
_PATIENCE_SECONDS = 120
# Forces one instruction set, for tests. Verdicts are stored for each forced set separately.
ISA_VARIABLE = "POCKETSPEC_ISA"
# The code that verdicts depend on: after a change of it they are made again.
_TESTS = (
    *("run.py", "cases.py", "golden.json", "golden.py", "numbers.py", "onnx_bytes.py"),
    *("reference.py", "attention_reference.py"),
)
# Verdicts that are not stored on disk. One start asks for them many times and should test once.
_passing: dict[str, LibraryVerdict] = {}


class KernelsError(PocketspecError, RuntimeError):
    """The native kernels cannot be used here; the message says why and what would help."""


@dataclass(frozen=True)
class LibraryVerdict:
    """The result of a self-test: the library's description of itself, and the first fault found, None if there is none.

    ``isa`` is the instruction set in use. ``compiled`` are the sets in the library, best first, and ``usable`` those of
    them that this processor has. ``about`` says whose the fault is, as in ``selftest.run.SelfTestResult``; ``note`` is
    worth knowing and not a fault.
    """

    version: str = "unknown"
    layout: int = 0
    isa: str = "unknown"
    compiled: tuple[str, ...] = ()
    usable: tuple[str, ...] = ()
    fault: str | None = None
    about: str = "library"
    note: str | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any], found: Mapping[str, Any]) -> LibraryVerdict:
        """A verdict from JSON data: ``description``, missing fields count as unknown, and the ``found`` result."""
        return cls(
            version=str(data.get("version", cls.version)),
            layout=int(data.get("layout", cls.layout)),
            isa=os.environ.get(ISA_VARIABLE) or str(next(iter(data.get("usable", ())), cls.isa)),
            compiled=tuple(data.get("compiled", ())),
            usable=tuple(data.get("usable", ())),
            fault=found["fault"],
            about=str(found["about"]),
            note=found["note"],
        )


@dataclass(frozen=True)
class Library:
    """A library that has passed its self-test."""

    path: Path
    digest: str
    verdict: LibraryVerdict

    @property
    def is_fast(self) -> bool:
        """Whether it has an instruction set for this processor; plain C++ is 30 times as slow as ONNX Runtime.

        A forced set counts as fast: whoever forces plain C++ wants to see it run.
        """
        return self.verdict.isa != PLAIN or ISA_VARIABLE in os.environ

    def register(self, options: ort.SessionOptions, threads: int) -> None:
        """Adds the operators to sessions opened with ``options``; they run on ``threads`` threads."""
        options.intra_op_num_threads = threads
        options.add_session_config_entry("pocketspec.threads", str(threads))
        options.add_session_config_entry(CREW_ENTRY, new_crew_number())
        options.register_custom_ops_library(str(self.path))


def library_path() -> Path:
    """Where the library is, or will be built: in the package, or in the user's cache if the package cannot be written.

    ``POCKETSPEC_LIBRARY`` names another place.
    """
    if named := os.environ.get("POCKETSPEC_LIBRARY"):
        return Path(named)
    if LIBRARY.is_file() or os.access(LIBRARY.parent, os.W_OK):
        return LIBRARY
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(SOURCES.glob("*.*")))).hexdigest()[:16]
    return user_folder() / f"{digest}-{LIBRARY_NAME}"


def open_library() -> Library:
    """The library, if it passes its self-test; KernelsError if there is none or it fails."""
    path = library_path()
    verdict = verdict_on(path)
    if verdict.fault is not None:
        raise KernelsError(verdict.fault)
    return Library(path, sha256_of(path), verdict)


def verdict_on(path: Path, *, fresh: bool = False) -> LibraryVerdict:
    """The verdict on the library at ``path``: the stored one, unless there is none or a ``fresh`` one is asked for."""
    if not path.is_file():
        return LibraryVerdict(fault=f"the native kernels are not built; {BUILD_COMMAND} builds them")
    tests = [sha256_of(Path(__file__).parent / "selftest" / test) for test in _TESTS]
    name, key = f"kernels-{sha256_of(path)[:16]}", [tests, device_key(), os.environ.get(ISA_VARIABLE)]
    passing = json.dumps([name, key])
    if fresh:
        forget(user_folder(), name)
        _passing.pop(passing, None)
    value, _ = look_up(user_folder(), name, key)
    verdict = _from_record(value) or _passing.get(passing)
    if verdict is None:
        verdict = judge(path)
        if verdict.about == "library":
            remember(user_folder(), name, key, asdict(verdict))
        else:
            _passing[passing] = verdict
    return _explained(path, verdict)


def _from_record(value: Any) -> LibraryVerdict | None:
    """The stored verdict; None if the stored value is not one."""
    try:
        return None if value is None else LibraryVerdict.read(value, value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _explained(path: Path, verdict: LibraryVerdict) -> LibraryVerdict:
    """The verdict, its fault extended by what the user can do."""
    if verdict.fault is None:
        return verdict
    again = "the next start tries again, and --kernels portable does without"
    build = f"{BUILD_COMMAND} builds it for this machine"
    if verdict.about == "library":
        fault = f"{path} failed its self-test: {verdict.fault}; {build}"
    elif verdict.about == "reference":
        fault = f"the self-test of {path} cannot tell, since it is wrong itself: {verdict.fault}; another version of"
        fault += f" NumPy may be right; {again}"
    else:
        fault = f"{path} came to no end of its self-test: {verdict.fault}; {again}; if that does not help, {build}"
    return replace(verdict, fault=fault)


def judge(path: Path) -> LibraryVerdict:
    """Runs the self-test of the library at ``path`` now, in a process of its own."""
    try:
        done = run_module("runtime.kernels.selftest.run", str(path.resolve()), timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return LibraryVerdict(fault=f"it took more than {_PATIENCE_SECONDS} s", about="trial")
    except OSError as error:
        return LibraryVerdict(fault=f"it could not be started: {error}", about="trial")
    crash = crash_of(done)
    return _read_verdict(done.stdout) if crash is None else LibraryVerdict(fault=crash, about="trial")


def _read_verdict(text: str) -> LibraryVerdict:
    try:
        output = json.loads(text.splitlines()[-1])
        verdict = LibraryVerdict.read(json.loads(output["description"] or "{}"), output)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return LibraryVerdict(fault="what it says of itself cannot be read", about="trial")
    if verdict.fault is None and verdict.layout != LAYOUT_VERSION:
        fault = f"it reads weights of layout {verdict.layout}, this version packs layout {LAYOUT_VERSION}"
        return replace(verdict, fault=fault)
    return verdict
