"""Compiles the native kernels into one shared library, with any C++ compiler that is installed.

Every source file directly in ``native`` is part of the library. A file ``isa_NAME.cpp`` is for one instruction set: it
is compiled for its own architecture only and with its own flags, and left out if the compiler does not know them. The
macros ``POCKETSPEC_HAS_NAME`` tell the other sources which ones are there. The instruction set is chosen when the
library is loaded, so one library serves every processor of its architecture.

The installation and ``python -m runtime kernels --build`` call this. It needs the standard library alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from export.manifest import PocketspecError

SOURCES = Path(__file__).with_name("native")
LIBRARY_NAME = "libpocketspec" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).with_name(LIBRARY_NAME)
# Version of the operators' results: it changes whenever their bits may.
VERSION = "1"

# No contraction of products and sums: ARITHMETIC.md specifies results bit for bit.
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-fvisibility=hidden")
# Compilers at a time. A small machine has two cores, and more would save only seconds of an installation.
_WORKERS = 2
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class BuildError(PocketspecError, RuntimeError):
    """The kernels cannot be compiled here; the message says why."""


@dataclass(frozen=True)
class InstructionSet:
    """One instruction set. ``features`` are the processor features it needs, under their names in /proc/cpuinfo."""

    name: str
    machine: str | None
    flags: tuple[str, ...]
    features: tuple[str, ...]


_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
# Best first: the first one that a processor has is used.
INSTRUCTION_SETS = (
    InstructionSet(
        "avx512vnni",
        "x86_64",
        (*_AVX512, "-mfma", "-mf16c", "-mprefer-vector-width=512"),
        ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma", "f16c"),
    ),
    InstructionSet("avxvnni", "x86_64", (*_AVX2, "-mavxvnni"), ("avx2", "fma", "f16c", "avx_vnni")),
    InstructionSet("avx2", "x86_64", _AVX2, ("avx2", "fma", "f16c")),
    InstructionSet("neon_i8mm", "aarch64", ("-march=armv8.2-a+dotprod+i8mm",), ("asimddp", "i8mm")),
    InstructionSet("neon_dot", "aarch64", ("-march=armv8.2-a+dotprod",), ("asimddp",)),
    InstructionSet("portable", None, (), ()),
)


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C++, and the architecture that it compiles for."""

    command: tuple[str, ...]
    machine: str

    def knows(self, flags: Sequence[str]) -> bool:
        """Whether an empty source compiles with ``flags``, assembling included."""
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder, "empty.cpp")
            empty.touch()
            return _run([*self.command, *flags, "-c", str(empty), "-o", str(empty.with_suffix(".o"))]).returncode == 0


def find_compiler(command: str | None = None) -> Compiler:
    """The compiler ``command``, else that in ``CXX``, else the first of c++, g++ and clang++; else BuildError."""
    asked = command or os.environ.get("CXX")
    words = shlex.split(asked) if asked else [next(filter(shutil.which, ("c++", "g++", "clang++")), "")]
    if not words or not shutil.which(words[0]):
        what = f"no compiler {words[0]!r}" if asked and words else "no C++ compiler"
        raise BuildError(f"{what} on this machine; install g++ or clang++, or set CXX to one")
    found = _run([*words, "-dumpmachine"])
    if found.returncode != 0:
        raise BuildError(
            f"{shlex.join(words)} is no compiler like g++ or clang++: it does not know -dumpmachine; set CXX to another"
        )
    machine = found.stdout.strip().split("-")[0].lower()
    return Compiler(tuple(words), _MACHINES.get(machine, machine))


def build(
    output: Path = LIBRARY,
    *,
    compiler: str | None = None,
    flags: Sequence[str] = (),
    program: Sequence[Path] = (),
    sources: Path = SOURCES,
) -> tuple[str, ...]:
    """Compiles ``sources`` into the library ``output`` and returns its instruction sets, best first.

    ``flags``, such as warnings and sanitizers, are added to every call of the compiler. With further sources in
    ``program`` the result is a program. ``output`` is replaced only by a complete file; BuildError says what failed.
    """
    tool = find_compiler(compiler)
    files = sorted(sources.glob("*.cpp"))
    if not files:
        raise BuildError(f"no sources of the kernels in {sources}; install pocketspec again")
    wanted = [isa for isa in INSTRUCTION_SETS if isa.machine in (None, tool.machine)]
    known = {isa.name: isa for isa in wanted if (sources / f"isa_{isa.name}.cpp") in files and tool.knows(isa.flags)}
    common = [
        *_FLAGS,
        *flags,
        f'-DPOCKETSPEC_VERSION="{VERSION}"',
        *(f"-DPOCKETSPEC_HAS_{name.upper()}" for name in known),
    ]
    jobs: list[tuple[Path, Sequence[str]]] = [
        (file, known[name].flags if (name := _isa_of(file)) else ())
        for file in files
        if _isa_of(file) in (None, *known)
    ]
    jobs += [(file, ()) for file in program]
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder, f"{number}.o") for number in range(len(jobs))]
        commands = [
            [*tool.command, *common, *own, "-c", str(file), "-o", str(result)]
            for (file, own), result in zip(jobs, objects, strict=True)
        ]
        _compile(commands)
        _link(tool, objects, output, [*flags, *([] if program else ["-shared"])])
    return tuple(known)


def _isa_of(file: Path) -> str | None:
    return file.stem.removeprefix("isa_") if file.stem.startswith("isa_") else None


def _compile(commands: Iterable[Sequence[str]]) -> None:
    with ThreadPoolExecutor(_WORKERS) as pool:
        for command, done in pool.map(lambda command: (command, _run(command)), commands):
            if done.returncode != 0:
                raise BuildError(f"{command[0]} cannot compile {Path(command[-3]).name}: {_first_error(done.stderr)}")


def _link(tool: Compiler, objects: Sequence[Path], output: Path, flags: Sequence[str]) -> None:
    part = output.with_name(f"{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        done = _run([*tool.command, *map(str, objects), *flags, "-pthread", "-o", str(part)])
        if done.returncode != 0:
            raise BuildError(f"{tool.command[0]} cannot link {output}: {_first_error(done.stderr)}")
        os.replace(part, output)
    except OSError as error:
        raise BuildError(f"cannot write {output}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from None


def _first_error(text: str) -> str:
    """The first line of the compiler's output that names an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")
