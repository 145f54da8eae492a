"""What the rows of a KV cache depend on, bit for bit: only where all of it is equal may they be used again.

The native kernels compute the same bits on every processor (``runtime/kernels/ARITHMETIC.md``). Those of ONNX Runtime
may differ with its version, the processor, the execution provider and the number of threads.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from export.manifest import Level, Manifest
from memory.cores import read_cores
from memory.plan import LevelPlan, Plan
from runtime.bundle.device_cache import device_key
from runtime.kernels.backends import Kernels

# Files of other builders have no hashes: so many pieces of so many bytes of each are compared.
_PIECES, _PIECE_BYTES = 32, 1 << 16


@dataclass(frozen=True)
class Identity:
    """Where a level's rows come from: ``model`` is a hash of its files, ``kernels`` says what computed them."""

    model: str
    kv_type: str
    kernels: tuple[str, ...]

    def difference(self, here: Identity) -> str | None:
        """Why rows of this origin are not those that would be computed ``here``; None if they are."""
        if self.model != here.model:
            return "it is of another model"
        if self.kv_type != here.kv_type:
            return f"its KV cache is {self.kv_type}, and {here.kv_type} here"
        if self.kernels != here.kernels:
            return (
                f"its rows were computed by other kernels ({_named(self.kernels)}) than here ({_named(here.kernels)})"
            )
        return None


def identify(bundle: Path, manifest: Manifest, plan: Plan, planned: LevelPlan, kernels: Kernels) -> Identity:
    """The identity of the rows that the level ``planned`` computes with ``kernels``."""
    level = manifest.level(planned.name)
    return Identity(_model(bundle, manifest, level), planned.kv_type, _key(plan, planned, kernels))


def _key(plan: Plan, planned: LevelPlan, kernels: Kernels) -> tuple[str, ...]:
    """Native: the version of their arithmetic. Portable: all that ONNX Runtime's bits may differ with."""
    machine, processor, version = _device_key()
    if kernels.name == "native":
        return (*kernels.key[:2], version)
    threads = plan.threads_of(planned) or read_cores().usable
    return (*kernels.key, version, machine, processor, planned.placement.provider, str(threads))


@cache
def _device_key() -> tuple[str, ...]:
    return tuple(device_key())


def _model(bundle: Path, manifest: Manifest, level: Level) -> str:
    """A hash of the graphs and weights of ``level``, from the hashes in the manifest where there are some."""
    folder = PurePosixPath(level.folder)
    names = [name for name in manifest.files if ".onnx" in name and PurePosixPath(name).parent == folder]
    hashes = {name: manifest.files[name].sha256 for name in names} or _sampled(bundle, level)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _sampled(bundle: Path, level: Level) -> dict[str, str]:
    """Size and hashed pieces of every file of a level that has no hashes."""
    graphs = [bundle / level.folder / graph for graph in level.graphs.values()]
    files = {path for graph in graphs for path in graph.parent.iterdir() if path.name.startswith(graph.stem + ".onnx")}
    return {path.name: _sample(path) for path in sorted(files)}


def _sample(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(_PIECES):
            file.seek(size * piece // _PIECES)
            digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def _named(kernels: tuple[str, ...]) -> str:
    return " ".join(kernels)
