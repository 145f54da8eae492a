"""What of a bundle is changed, and what is then asked of it: each a file, ways to change it, and a question."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from export.bundle_files import sha256_of
from export.manifest import FileEntry, dump_manifest, read_manifest
from export.untrusted import MOST_JSON, UntrustedError, read_text
from memory.choices import Request
from memory.costs import parse_costs
from memory.device import Device
from memory.planner import make_plan
from runtime.bundle.device_cache import look_up, recall
from runtime.bundle.external_data import locations
from runtime.bundle.foreign import check_bundle, read_bundle
from runtime.kernels.weights.packed import packed_files, packed_graphs
from runtime.kernels.weights.packing_table import read_table
from runtime.kernels.weights.prepacked import place_of
from runtime.text.tokenizer import Tokenizer
from tests.fuzz.mutations import mutated_bytes, mutated_json, mutated_names, mutated_template

_DEVICE = Device(8 << 30, 8 << 30)


@dataclass(frozen=True)
class Target:
    """``file`` of the bundle in folder ``kind``; ``mutate`` makes its new bytes of the old, ``ask`` uses the bundle."""

    name: str
    kind: str
    file: str
    mutate: Callable[[bytes, Random], bytes]
    ask: Callable[[Path], object]


# The description of the one pair there is, as a pattern.
PAIR = ".device/prepacked/model.onnx/*/prepacked.json"


def read_costs(bundle: Path) -> None:
    """Measured costs, as a record has them."""
    try:
        text = read_text(bundle / "costs.json", MOST_JSON)
    except UntrustedError:
        return
    parse_costs(text)


def open_and_plan(bundle: Path) -> None:
    """What every command does first, as far as it opens no session."""
    manifest = read_bundle(bundle)
    check_bundle(bundle, manifest)
    make_plan(manifest, _DEVICE, Request())


def chat(folder: Path) -> None:
    """A conversation becomes tokens and text again."""
    tokenizer = Tokenizer.open(folder)
    text = [{"role": "user", "content": "Hello <|end|> wörld"}]
    ids = tokenizer.encode_chat(text) if tokenizer.template else tokenizer.encode("Hello wörld")
    tokenizer.decode([*ids[:100], 0, 5, 94])


def pack(bundle: Path) -> None:
    """Packed weights are found, or made again, for the level that has a table."""
    manifest = read_bundle(bundle)
    check_bundle(bundle, manifest)
    if manifest.target.native is None:
        return
    packed_graphs(bundle, manifest, manifest.target)
    assert [fault for _, fault in packed_files(bundle, manifest, manifest.target, verify=True)] == [None]


def find_pair(bundle: Path) -> None:
    """ONNX Runtime's packed weights are used or not; none is made here."""
    manifest = read_bundle(bundle)
    place = place_of(bundle, manifest, manifest.target, "model.onnx")
    place.find()
    list(place.faulty())
    list(place.damaged())


def recall_records(bundle: Path) -> None:
    """A record is used or made again."""
    assert recall(bundle, "record", ["key"], lambda: 1, lambda value: value in (1, 2)) in (1, 2)
    look_up(bundle, "record", ["key"])


def entry_of(path: Path) -> FileEntry:
    """What a manifest says of a file."""
    return FileEntry(path.stat().st_size, sha256_of(path))


def read_graph(bundle: Path) -> None:
    """The graph's names, and the bundle as if the changed graph had been exported so."""
    manifest = read_manifest(bundle)
    graph = bundle / "model.onnx"
    files = {**manifest.files, "model.onnx": entry_of(graph)}
    data = json.loads(dump_manifest(manifest))
    data["files"] = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in files.items()}
    (bundle / "pocketspec.json").write_text(json.dumps(data))
    shutil.rmtree(bundle / ".device", ignore_errors=True)
    check_bundle(bundle, read_bundle(bundle))
    assert all("/" not in name and "\\" not in name for name in locations(graph))


def _json(data: bytes, random: Random) -> bytes:
    return mutated_json(data.decode(), random)


def _template(data: bytes, random: Random) -> bytes:
    return mutated_template(data.decode(), random)


def _graph(data: bytes, random: Random) -> bytes:
    names = [b"model.onnx.data", b"location", b"offset"]
    return mutated_names(data, names, random) if random.random() < 0.7 else mutated_bytes(data, random)


def _header(data: bytes, random: Random) -> bytes:
    """A changed first page, the rest as it was; or damage anywhere."""
    if random.random() < 0.3:
        return mutated_bytes(data, random)
    return mutated_json(data[:4096].decode().strip(), random).ljust(4096)[:4096] + data[4096:]


TARGETS = [
    Target("manifest", "tiny", "pocketspec.json", _json, open_and_plan),
    Target("native manifest", "packable", "pocketspec.json", _json, pack),
    Target("genai_config", "foreign", "genai_config.json", _json, open_and_plan),
    Target("template", "tiny", "chat_template.jinja", _template, chat),
    Target("tokenizer", "tiny", "tokenizer.json", _json, chat),
    Target("tokenizer_config", "tiny", "tokenizer_config.json", _json, chat),
    Target("costs", "tiny", "costs.json", _json, read_costs),
    Target("record", "tiny", "record.json", _json, recall_records),
    Target("packing table", "packable", "native.json", _json, lambda bundle: read_table(bundle / "native.json")),
    Target("packed header", "packable", "native.data", _header, pack),
    Target("prepacked record", "external", PAIR, _json, find_pair),
    Target("graph", "external", "model.onnx", _graph, read_graph),
]
