"""Makes a pair: a graph and a data file with the weights of a level in the layout of ONNX Runtime's kernels.

ONNX Runtime writes the pair from a session that has copied and packed the weights. A session of the pair packs every
matrix once more to compare, drops the copy, and reads the mapped file from then on. Where the two differ it keeps its
copy, so that packed weights of another processor cost memory and never correctness. But the unpacked weights must be
there to compare, in the same file: the disk pays for both.

A pair grows in a folder of its own. It is renamed when it is complete, on disk, and has given the same bits as the
graph it was made of: two processes that make it at once both end well, and an interruption leaves nothing.
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

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export.manifest import Level, sha256_of
from runtime.devices import any_width
from runtime.heap import give_back
from runtime.kernels.disk import PackingError, check_space, clear_abandoned, explain, put_in_place
from runtime.kernels.session import PROVIDERS, session_options

GRAPH, DATA, DESCRIPTION = "model.onnx", "model.onnx.data", "prepacked.json"

# Bytes of a pair for every byte of its source, or a little more where embedding and head are one. Half-precision
# weights become float32 before they are packed.
_GROWTH = {"int4": 2, "int8": 2, "fp16": 4, "fp32": 2}
_WIDTHS = (3, 1)  # kernels may take other paths for one row

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

    @property
    def kv_scale_bytes(self) -> int:
        """The most that a graph has of scales of the KV cache in one constant: float32 for every channel of a layer."""
        return 4 * self.level.shape.kv_heads * self.level.shape.head_size


def prepack(pair: Pair, folder: Path) -> None:
    """Makes ``pair`` in ``folder``. Raises PackingError, and leaves nothing half-written."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}-{threading.get_ident()}.part")
    needed = _GROWTH[pair.level.quantization.weights] * pair.bytes
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder.parent, "*.part")
        check_space(folder.parent, needed)
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


def _write(pair: Pair, part: Path) -> None:
    """Writes the pair, proves it, and describes it."""
    try:
        expected = _results(pair, pair.graph, _saving_options(pair, part))
        seen = _results(pair, part / GRAPH, session_options(None))
    except Exception as error:  # ONNX Runtime's errors share no other base
        reason = str(error).strip().splitlines()[0]
        raise PackingError(
            f"ONNX Runtime {ort.__version__} cannot pack the weights of {pair.graph}: {reason}"
        ) from None
    if not all(map(np.array_equal, seen, expected)):
        raise PackingError(
            f"ONNX Runtime {ort.__version__} packs the weights of {pair.graph} so that its results change"
        )
    sizes = {path.name: path.stat().st_size for path in part.iterdir()}
    for name in sizes:
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
    description = {"key": pair.key, "bytes": sizes, "graph": sha256_of(part / GRAPH)}
    (part / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def _saving_options(pair: Pair, part: Path) -> ort.SessionOptions:
    options = session_options(None)
    options.optimized_model_filepath = str(part / GRAPH)
    for name, value in {
        "optimized_model_external_initializers_file_name": DATA,
        # Scales of a KV cache stay in the graph: graphs of one level then differ in nothing that lies in the data file.
        "optimized_model_external_initializers_min_size_in_bytes": str(pair.kv_scale_bytes + 1),
        "save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(f"session.{name}", value)
    return options


def _results(pair: Pair, graph: Path, options: ort.SessionOptions) -> list[npt.NDArray[Any]]:
    """Logits and cache of a few rows in forwards of several widths, from a session that is then closed."""
    from runtime.model import OrtModel  # here, because models are opened with what this makes

    rows, most = sum(_WIDTHS), max(_WIDTHS)
    shape = pair.level.shape
    session = ort.InferenceSession(graph, options, providers=PROVIDERS)
    model = OrtModel(session, rows, most, most, any_width(most), (shape.kv_heads, shape.head_size))
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, rows).tolist()
    results = [model.forward([tokens.pop() for _ in range(width)]).logits.copy() for width in _WIDTHS]
    results += [array.copy() for array in model.cache.arrays]
    del session, model
    give_back()
    return results


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
