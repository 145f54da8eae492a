"""A bundle whose weights outweigh everything else in a process, and how to open it without an engine.

As a program, ``python -m tests.runtime.kernels.weights.weighty BUNDLE WANTED`` opens the target, runs a row, says what
became of its memory, and keeps it open until its input ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from export.bundle_files import sha256_of
from export.manifest import (
    FileEntry,
    Level,
    Manifest,
    ModelShape,
    Quantization,
    Source,
    Vocabulary,
    read_manifest,
    write_manifest,
)
from runtime.kernels.backends import Kernels
from runtime.kernels.selection import Chooser, Wanted
from runtime.models.exact_widths import any_width
from runtime.models.ort_model import OrtModel, open_session
from runtime.process.allocator import give_back
from tests.places import ROOT

MAX_ROWS = 8


def write_weighty_bundle(folder: Path, *, wide: int = 64, bits: int = 4, seed: int = 0, kv_types: int = 1) -> Path:
    """A target of two layers, ``wide`` values wide, with its weights in a file of their own.

    ``kv_types`` 2 adds a graph for an fp16 cache that has the same weights. 1024 wide in fp32 are 36 MB.
    """
    import onnx_ir as ir  # here, so that the program starts with what a user's has

    from tests.runtime import tiny_graph

    graphs = {"fp32": "model.onnx", "fp16": "model-fp16.onnx"} if kv_types == 2 else {"fp32": "model.onnx"}
    folder.mkdir(exist_ok=True)
    for kv_type, name in graphs.items():
        with mock.patch.multiple(tiny_graph, HIDDEN=wide, MLP=4 * wide):
            kv = "float" if kv_type == "fp32" else "float16"
            path = tiny_graph.write_tiny_graph(folder / name, bits=bits, seed=seed, kv=kv)
        ir.save(ir.load(path), path, external_data="model.onnx.data")
    quantization = Quantization("int4", 32, "rtn", 0.1) if bits == 4 else Quantization("fp32")
    sizes = (tiny_graph.HEADS, tiny_graph.KV_HEADS, tiny_graph.SIZE, tiny_graph.VOCAB, tiny_graph.POSITIONS)
    level = Level(
        name="weighty",
        role="target",
        folder=".",
        architecture="tiny",
        source=Source("weighty", kind="random-weights"),
        shape=ModelShape(2, wide, 4 * wide, *sizes),
        vocabulary=Vocabulary(tiny_graph.VOCAB, "0" * 64, ()),
        quantization=quantization,
        graphs=graphs,
        weight_bytes=(folder / "model.onnx.data").stat().st_size,
    )
    names = ["model.onnx.data", *graphs.values()]
    files = {name: FileEntry((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}
    write_manifest(folder, Manifest("weighty", (level,), files))
    return folder


@contextmanager
def started(bundle: Path, wanted: Wanted) -> Iterator[subprocess.Popen[str]]:
    """A process that opens the target and keeps it open."""
    command = [sys.executable, "-m", "tests.runtime.kernels.weights.weighty", str(bundle), wanted]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        yield process
        process.stdin.close()


def found_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process says of its memory once the target is open."""
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def open_target(
    bundle: Path,
    wanted: Wanted = "portable",
    notify: Callable[[str], None] = lambda line: None,
    kv_type: str = "fp32",
) -> OrtModel:
    """The target with the kernels that are found for it."""
    manifest = read_manifest(bundle)
    level = manifest.target

    def make(kernels: Kernels) -> OrtModel:
        session = open_session(kernels.graph(bundle / level.folder, level, kv_type), 1, kernels)
        kv_shape = (level.shape.kv_heads, level.shape.head_size)
        return OrtModel(session, 4 * MAX_ROWS, MAX_ROWS, MAX_ROWS, any_width(MAX_ROWS), kv_shape, kernels)

    return Chooser(wanted, notify).open(bundle, manifest, level, make)


def _anonymous() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


def _main(bundle: Path, wanted: Wanted) -> None:
    give_back()
    before = _anonymous()
    model = open_target(bundle, wanted)
    model.forward([1])
    found = {
        "residence": model.kernels.residence,
        "anonymous": _anonymous() - before,
        "files": [str(path) for path in model.kernels.mapped_files(read_manifest(bundle).target)],
    }
    print(json.dumps(found), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])  # type: ignore[arg-type]
