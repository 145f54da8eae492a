"""Makes a pair: a graph, and a data file with the weights in the layout of ONNX Runtime's kernels.

ONNX Runtime writes the pair from a session that has copied and packed the weights. A session of the pair packs every
matrix again to compare; if they are equal it drops the copy and reads the mapped file, else it keeps the copy. So
packed weights of another processor cost memory but never correctness. The comparison needs the unpacked weights in the
same file, so the disk holds both.

No plan has room for copied weights, so a process of its own (``prepacker``) writes the pair, in a temporary folder. The
folder is renamed when the pair is complete, on disk, and has given the same bits as the original graph: two processes
may make it at once, and an interruption leaves nothing.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from export.bundle_files import sha256_of
from export.manifest import Level
from export.own_files import holds_link, make_folder, mark, part_of, refuse_link, remove_tree
from export.untrusted import MOST_JSON, UntrustedError, parse_own_json, read_bytes, shown
from memory.child import crash_of, run_module
from memory.device import read_device
from runtime.bundle.external_data import check_locations
from runtime.kernels.weights.content import DAMAGED, Check
from runtime.kernels.weights.disk import PackingError, check_space, clear_abandoned, explain, is_same, put_in_place

GRAPH, DATA, DESCRIPTION = "model.onnx", "model.onnx.data", "prepacked.json"

# Bytes of a pair for every byte of its source; a little more if embedding and head are one. fp16 weights become float32
# before they are packed.
_GROWTH = {"int4": 2, "int8": 2, "fp16": 4, "fp32": 2}
# Anonymous bytes of the process that makes a pair: without weights, and for every byte of its source (measured: 1.20 at
# the Qwen2-1.5B shape in int4, 1.19 in fp32, 4.3 in fp16).
_PROCESS_BYTES = 32_000_000
_PEAK = {"int4": 1.25, "int8": 1.25, "fp16": 4.5, "fp32": 1.25}

# How a pair made for something else is described, by the field of its key that differs.
_DIFFERENCES = {
    "format": "has another format",
    "weights": "is of other weights",
    "onnxruntime": "was made by another version of ONNX Runtime",
    "processor": "was made for another processor",
}


@dataclass(frozen=True)
class Pair:
    """The source of a pair: a ``graph`` of ``level``, of ``bytes`` with its data. ``key`` identifies the pair."""

    level: Level
    graph: Path
    key: dict[str, Any]
    bytes: int


def prepack(pair: Pair, folder: Path, root: Path) -> None:
    """Makes ``pair`` in ``folder``, which is inside ``root``. PackingError if it fails; then nothing is left."""
    part = part_of(folder)
    needed = _GROWTH[pair.level.quantization.weights] * pair.bytes
    try:
        make_folder(root, folder.parent)
        clear_abandoned(folder.parent, "*.*.part")
        check_space(folder.parent, needed)
        _check_memory(pair)
        part.mkdir()
        mark(part)
        _write(pair, part)
        _share_data(part, folder.parents[1])
        refuse_link(root, folder)
        if not _is_same_pair(part, folder):  # else another process was faster: its file is used
            _put_in_place(part, folder)
    except PackingError:
        raise
    except OSError as error:
        raise explain(error, folder, needed, "") from error
    finally:
        remove_tree(root, part)


@dataclass(frozen=True)
class Description:
    """The content of ``prepacked.json``: what the pair beside it was made for, bytes by file, and their SHA-256."""

    key: dict[str, Any]
    bytes: dict[str, int]
    graph: str
    data: str | None

    @classmethod
    def read(cls, folder: Path) -> Description | None:
        """The description of the pair in ``folder``; None if it is missing or cannot be read."""
        try:
            found = parse_own_json(read_bytes(folder / DESCRIPTION, MOST_JSON))
            made = cls(dict(found["key"]), dict(found["bytes"]), found["graph"], found.get("data"))
        except (OSError, UntrustedError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return made if set(made.bytes) <= {GRAPH, DATA} else None


def find_fault(folder: Path, key: dict[str, Any], check: Check) -> str | None:
    """The fault of the pair in ``folder``, which should be the one for ``key``; None if there is none.

    ``check`` says whether the packed weights are whole.
    """
    if any(holds_link(folder.parent, folder / name) for name in (GRAPH, DATA, DESCRIPTION)):
        return "consists of links"
    made = Description.read(folder)
    if made is None:
        return "is incomplete"
    for name, difference in _DIFFERENCES.items():
        if made.key.get(name) != key[name]:
            return difference
    for name, size in made.bytes.items():
        seen = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if seen != size:
            return f"has {seen:,} bytes in {name} instead of {shown(size)}"
    if GRAPH not in made.bytes or sha256_of(folder / GRAPH) != made.graph:
        return f"has a damaged {GRAPH}"
    if DATA in made.bytes and not (isinstance(made.data, str) and check(folder / DATA, made.data, 0)):
        return DAMAGED
    return None


def _check_memory(pair: Pair) -> None:
    """PackingError if this device has too little memory for the process."""
    needed = _PROCESS_BYTES + int(_PEAK[pair.level.quantization.weights] * pair.bytes)
    available = read_device().available_bytes
    if needed > available:
        raise PackingError(
            f"packing the weights of {pair.level.name} takes {needed:,} bytes of memory, once, and {available:,} are"
            " available now; close other programs"
        )


def _write(pair: Pair, part: Path) -> None:
    """Lets the process write and test the pair, then describes it."""
    fault = write_isolated(pair, part)
    if fault is not None:
        raise PackingError(f"ONNX Runtime {ort.__version__} {fault}")
    check_locations(part, part / GRAPH)
    sizes = {name: (part / name).stat().st_size for name in (GRAPH, DATA) if (part / name).is_file()}
    for name in sizes:
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
    data = sha256_of(part / DATA) if DATA in sizes else None
    description = {"key": pair.key, "bytes": sizes, "graph": sha256_of(part / GRAPH), "data": data}
    (part / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def write_isolated(pair: Pair, part: Path) -> str | None:
    """Writes the pair in a process of its own: a session that copies weights takes more memory than a plan has.

    None of its memory, heap or mappings, stays in this process. Returns the fault, None if there is none.
    """
    shape = pair.level.shape
    arguments = [str(path.absolute()) for path in (pair.graph, part)]
    try:
        width = 0 if shape.convolutions is None else shape.convolutions.width
        sizes = map(str, (shape.kv_heads, shape.head_size, width))
        done = run_module("runtime.models.prepacker", *arguments, *sizes)
    except OSError as error:
        return f"needs a process of its own to pack the weights of {pair.graph}, which cannot be started: {error}"
    crash = crash_of(done)
    if crash is not None:
        return f"did not pack the weights of {pair.graph} in a process of its own: {crash}"
    fault: str | None = json.loads(done.stdout.splitlines()[-1])["fault"]
    return fault


def _share_data(part: Path, folder: Path) -> None:
    """Replaces the data by a link if a neighbouring graph has the same data; disks without links hold it twice."""
    ours = part / DATA
    for theirs in folder.glob(f"*/*/{DATA}"):
        if theirs != ours and not holds_link(folder, theirs) and ours.is_file() and is_same(ours, theirs):
            with suppress(OSError, AttributeError):
                os.link(theirs, part / "link")
                os.replace(part / "link", ours)
            return


def _is_same_pair(part: Path, folder: Path) -> bool:
    names = [name for name in (DESCRIPTION, GRAPH, DATA) if (part / name).is_file()]
    return all(is_same(part / name, folder / name) for name in names)


def _put_in_place(part: Path, folder: Path) -> None:
    """Moves the files, the description last, because it makes the folder count."""
    folder.mkdir(exist_ok=True)
    mark(folder)
    for name in (DATA, GRAPH, DESCRIPTION):
        if (part / name).is_file():
            put_in_place(part / name, folder / name)
