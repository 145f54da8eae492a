"""Measures what a process takes before it holds anything of a model, once for these libraries and kernels.

``python -m runtime.calibration.process_baseline KERNELS`` prints the stored result as JSON. If there is none, it first
measures another process (``runtime.bench.memory.empty_process``). ``memory.process`` runs this program.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.bundle_files import sha256_of
from memory.child import crash_of, run_module
from memory.device import Device, Residence, kernels_of
from memory.meter import read_memory
from memory.process import REFERENCE, KernelKind, ProcessBytes, read_process
from runtime.bundle.device_cache import look_up, remember, user_folder

_LIBRARIES = ("numpy", "onnxruntime", "tokenizers", "jinja2")
# Version of what the process does that is measured; numbers of another version are measured again.
_METHOD = 2
_PATIENCE_SECONDS = 60
_CHUNK = 1 << 20


def known_process(kernels: KernelKind) -> ProcessBytes | None:
    """The stored bytes, or else those measured now; None if that fails. A failure is not stored."""
    if read_memory() is None:
        return None
    name, key = f"process-{kernels}", _key(kernels)
    found, _ = look_up(user_folder(), name, key)
    process = read_process(found) if isinstance(found, dict) else None
    if process is None:
        process = _measure_isolated(kernels)
        if process is not None:
            remember(user_folder(), name, key, asdict(process))
    return process


def known_processes(device: Device, residence: Residence) -> dict[KernelKind, ProcessBytes]:
    """The same by kind of kernels, for a target whose weights are in memory as ``residence`` says; empty if not known.

    Measuring takes a second process, so nothing is measured where there is no room for two.
    """
    kernels = kernels_of(residence)
    reference = REFERENCE[kernels]
    if device.attainable_bytes < 2 * (reference.modules + reference.session + reference.files):
        return {}
    process = known_process(kernels)
    return {} if process is None else {kernels: process}


def _measure_isolated(kernels: KernelKind) -> ProcessBytes | None:
    """The bytes that a child process measures.

    Around a page that is touched, the system maps the pages that are in its cache: 41 MB of libraries at first, 53 MB
    later. So they are read into the cache before.
    """
    _read_libraries()
    try:
        done = run_module("runtime.bench.memory.empty_process", kernels, timeout=_PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if crash_of(done) is not None:
        return None
    with suppress(ValueError, IndexError):
        return read_process(json.loads(done.stdout.splitlines()[-1]))
    return None


def _key(kernels: KernelKind) -> list[Any]:
    """What the numbers depend on. It imports no libraries, so that reading a stored result stays cheap."""
    from runtime.kernels.library import library_path

    library = library_path() if kernels == "native" else None
    digest = sha256_of(library) if library is not None and library.is_file() else None
    versions = [platform.python_version(), *map(_version, _LIBRARIES)]
    return [_METHOD, versions, platform.machine(), os.cpu_count(), digest]


def _version(name: str) -> str:
    # Imported here, because it takes a megabyte that no conversation has.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _read_libraries() -> None:
    """Reads the binaries of the libraries into the system's cache."""
    from importlib.util import find_spec

    for name in _LIBRARIES:
        spec = find_spec(name)
        for folder in () if spec is None or spec.origin is None else _folders(Path(spec.origin).parent):
            for path in folder.rglob("*.so*"):
                with suppress(OSError), path.open("rb") as file:
                    while file.read(_CHUNK):
                        pass


def _folders(package: Path) -> tuple[Path, Path]:
    """The folders with binaries of a package: its own, and the one that wheels add for their libraries."""
    return package, package.with_name(f"{package.name}.libs")


def main(arguments: Sequence[str]) -> int:
    """Prints one JSON object; null if nothing can be measured."""
    parser = argparse.ArgumentParser(prog="python -m runtime.calibration.process_baseline", description=__doc__)
    parser.add_argument("kernels", choices=("native", "portable"))
    found = known_process(parser.parse_args(arguments).kernels)
    print(json.dumps(None if found is None else asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
