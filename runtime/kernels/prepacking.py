"""Makes a pair: a graph and a data file with the weights of a level in the layout of ONNX Runtime's kernels.

ONNX Runtime writes the pair from a session that has copied and packed the weights. A session of the pair packs every
matrix once more to compare, drops the copy, and reads the mapped file from then on. Where the two differ it keeps its
copy, so that packed weights of another processor cost memory and never correctness. But the unpacked weights must be
there to compare, in the same file: the disk pays for both.

Copied weights are what no plan has room for, so a process of its own (``prepacker``) writes the pair. A pair grows in a
folder of its own. It is renamed when it is complete, on disk, and has given the same bits as the graph it was made of:
two processes that make it at once both end well, and an interruption leaves nothing.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from export.manifest import Level, sha256_of
from memory.device import read_device
from runtime.kernels.child import crash_of, run_module
from runtime.kernels.disk import PackingError, check_space, clear_abandoned, explain, put_in_place

GRAPH, DATA, DESCRIPTION = "model.onnx", "model.onnx.data", "prepacked.json"

# Bytes of a pair for every byte of its source, or a little more where embedding and head are one. Half-precision
# weights become float32 before they are packed.
_GROWTH = {"int4": 2, "int8": 2, "fp16": 4, "fp32": 2}
# Anonymous bytes of the process that makes a pair: bare, and for every byte of its source (1.20 at the Qwen2-1.5B shape
# in int4, 1.19 in fp32, 4.3 in fp16).
_PROCESS_BYTES = 32_000_000
_PEAK = {"int4": 1.25, "int8": 1.25, "fp16": 4.5, "fp32": 1.25}

# What is said of a pair that was made for something else, by the field of its key.
_DIFFERENCES = {
    "format": "has another format",
    "weights": "is of other weights",
    "onnxruntime": "was made by another version of ONNX Runtime",
    "processor": "was made for another processor",
}


@dataclass(frozen=True)
class Pair:
    """What a pair is made of: ``graph``, of ``level``; ``bytes`` with its data. ``key`` tells pairs apart."""

    level: Level
    graph: Path
    key: dict[str, Any]
    bytes: int


def prepack(pair: Pair, folder: Path) -> None:
    """Makes ``pair`` in ``folder``. Raises PackingError, and leaves nothing half-written."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}-{threading.get_ident()}.part")
    needed = _GROWTH[pair.level.quantization.weights] * pair.bytes
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder.parent, "*.part")
        check_space(folder.parent, needed)
        _check_memory(pair)
        part.mkdir()
        _write(pair, part)
        _share_data(part, folder.parents[1])
        if find_fault(folder, pair.key) is not None:  # else another process was faster: who opens it shares its pages
            _put_in_place(part, folder)
    except PackingError:
        raise
    except OSError as error:
        raise explain(error, folder, needed, "") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def find_fault(folder: Path, key: dict[str, Any]) -> str | None:
    """What is wrong with the pair in ``folder``, which should be the one for ``key``; None if nothing is."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        found, sizes, graph = dict(description["key"]), dict(description["bytes"]), description["graph"]
    except (OSError, ValueError, KeyError, TypeError):
        return "is incomplete"
    for name, difference in _DIFFERENCES.items():
        if found.get(name) != key[name]:
            return difference
    for name, size in sizes.items():
        seen = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if seen != size:
            return f"has {seen:,} bytes in {name} instead of {size:,}"
    return None if sha256_of(folder / GRAPH) == graph else f"has a damaged {GRAPH}"


def _check_memory(pair: Pair) -> None:
    """PackingError if this device has not the memory that the process takes."""
    needed = _PROCESS_BYTES + int(_PEAK[pair.level.quantization.weights] * pair.bytes)
    available = read_device().available_bytes
    if needed > available:
        raise PackingError(
            f"packing the weights of {pair.level.name} takes {needed:,} bytes of memory, once, and {available:,} are"
            " available now; close other programs"
        )


def _write(pair: Pair, part: Path) -> None:
    """Has the pair written and proved, and describes it."""
    fault = write_apart(pair, part)
    if fault is not None:
        raise PackingError(f"ONNX Runtime {ort.__version__} {fault}")
    sizes = {path.name: path.stat().st_size for path in part.iterdir()}
    for name in sizes:
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
    description = {"key": pair.key, "bytes": sizes, "graph": sha256_of(part / GRAPH)}
    (part / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def write_apart(pair: Pair, part: Path) -> str | None:
    """Writes the pair in a process of its own: a session that copies the weights takes more memory than a plan may.

    Nothing of that, heap or mappings, stays in this process. Says what went wrong, None if nothing did.
    """
    shape = pair.level.shape
    arguments = [str(path.absolute()) for path in (pair.graph, part)]
    try:
        done = run_module("runtime.kernels.prepacker", *arguments, str(shape.kv_heads), str(shape.head_size))
    except OSError as error:
        return f"needs a process of its own to pack the weights of {pair.graph}, which cannot be started: {error}"
    crash = crash_of(done)
    if crash is not None:
        return f"did not pack the weights of {pair.graph} in a process of its own: {crash}"
    fault: str | None = json.loads(done.stdout.splitlines()[-1])["fault"]
    return fault


def _share_data(part: Path, folder: Path) -> None:
    """Where a graph beside this one has the same data, makes the two files one; disks without links pay twice."""
    ours = part / DATA
    for theirs in folder.glob(f"*/*/{DATA}"):
        same_size = ours.is_file() and ours.stat().st_size == theirs.stat().st_size
        if theirs != ours and same_size and filecmp.cmp(ours, theirs, shallow=False):
            with suppress(OSError, AttributeError):
                os.link(theirs, part / "link")
                os.replace(part / "link", ours)
            return


def _put_in_place(part: Path, folder: Path) -> None:
    """Moves the files, the description last: it makes the folder one that counts."""
    folder.mkdir(exist_ok=True)
    for name in (DATA, GRAPH, DESCRIPTION):
        if (part / name).is_file():
            put_in_place(part / name, folder / name)
