"""Bundles made to do harm, and broken ones: one line, exit code 2, and nothing else is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.bundle_files import sha256_of
from export.manifest import FileEntry, ManifestError, read_manifest
from export.untrusted import name_fault
from memory.__main__ import main as plan_main
from runtime.__main__ import main
from runtime.bundle.foreign import check_bundle, read_bundle
from tests.runtime.kernels.weights.weighty import write_weighty_bundle
from tests.runtime.tiny_bundle import write_foreign_bundle

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def bundle(random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be changed; the user's folder is beside it, with what is known of this device."""
    shutil.copytree(os.environ["POCKETSPEC_CACHE"], tmp_path / "user")
    monkeypatch.setenv("POCKETSPEC_CACHE", str(tmp_path / "user"))
    return Path(shutil.copytree(random_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns(".device")))


def change_manifest(bundle: Path, change: Change) -> None:
    path = bundle / "pocketspec.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path, run: Callable[..., int] = main) -> str:
    """The one line with which a command refuses."""
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    return line


NAMES = [
    "../../.bashrc",
    "/etc/passwd",
    "..",
    "a/../../b",
    "a//b",
    "./a",
    "",
    "C:/x",
    "c:x",
    "a\\b",
    "\\\\server\\x",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "\x9bx",
    "\u202ex",
    "\ud800",
    "con",
    "NUL.onnx",
    "a/com1.txt/b",
    "a.",
    "a ",
    "x" * 300,
    "a/" * 300 + "a",
    "*/_ORT_MEM_ADDR_/*",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_lead_elsewhere_are_none(name: str) -> None:
    assert name_fault(name) is not None


@pytest.mark.parametrize(
    "name", ["model.onnx", "drafters/near/model-fp16.onnx", "a b.json", "日本.onnx", ".levels", "conx"]
)
def test_plain_names_are_names(name: str) -> None:
    assert name_fault(name) is None


def level(**fields: Any) -> Change:
    return lambda data: data["levels"][0].update(fields)


def shape(**fields: Any) -> Change:
    return lambda data: data["levels"][0]["shape"].update(fields)


NATIVE = {
    "graphs": {"fp32": "native.onnx"},
    "table": "native.json",
    "data": "native.data",
    "data_bytes": 1,
    "layout": 1,
}
CHANGES: dict[str, Change] = {
    "graph outside": level(graphs={"fp32": "../../../../.bashrc"}),
    "graph in a folder": level(graphs={"fp32": "drafters/near/model.onnx"}),
    "graph of another kind": level(graphs={"fp32": "model.ort"}),
    "graph not listed": level(graphs={"fp32": "other.onnx"}),
    "native graph outside": level(native={**NATIVE, "graphs": {"fp32": "../../../../.bashrc"}}),
    "native graph not listed": level(native=NATIVE),
    "packed elsewhere": level(native={**NATIVE, "data": "../native.data"}),
    "table elsewhere": level(native={**NATIVE, "table": "tokenizer.json"}),
    "folder outside": level(folder="../other"),
    "folder of another level": level(folder="drafters/near"),
    "file outside": lambda data: data["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
    "file of the device": lambda data: data["files"].update({".device/x": {"bytes": 1, "sha256": ""}}),
    "no KV heads": shape(kv_heads=0),
    "KV heads that do not divide": shape(kv_heads=3),
    "too many positions": shape(positions=10**12),
    "negative layers": shape(layers=-1),
    "huge number": shape(hidden_size=10**400),
    "true for a number": shape(heads=True),
    "negative bytes": lambda data: data["files"]["model.onnx"].update(bytes=-1),
    "KV speed of nothing": level(kv_effects={"fp16": {"speed": 0, "rows": 1, "kernels": "native"}}),
    "no number": level(agreement=float("nan")),
    "unknown KV type": level(graphs={"fp8": "model.onnx"}),
    "name that steers": level(name="\x1b[2Jtiny"),
    "no graphs": level(graphs={}),
    "two of one name": lambda data: data["levels"][1].update(name="tiny"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_manifests_that_nothing_exports_are_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    change_manifest(bundle, change)
    before = sorted(path for path in bundle.parent.rglob("*"))
    assert refused(capsys, "inspect", bundle).endswith("export the bundle again")
    refused(capsys, "generate", bundle, "Hello", "--no-speculation")
    assert sorted(path for path in bundle.parent.rglob("*")) == before


TEXTS: dict[str, bytes] = {
    "not UTF-8": b"\xff\xfe{}",
    "nested": b"[" * 10_000,
    "nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "empty": b"",
    "cut off": b'{"schema": 3, "name"',
    "a long number": b'{"schema": ' + b"1" * 5000 + b"}",
    "no number": b'{"schema": NaN}',
    "a key twice": b'{"schema": 3, "schema": 3}',
    "a list": b"[3]",
    "true": b'{"schema": true}',
    "zero": b'{"schema": 0}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_manifests_that_are_no_json_are_refused(bundle: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    (bundle / "pocketspec.json").write_bytes(text)
    assert "pocketspec.json" in refused(capsys, "inspect", bundle)
    assert "pocketspec.json" in refused(capsys, "plan", bundle, run=plan_main)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def large(path: Path) -> None:
    os.truncate(path, 1 << 40)


def link_in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("name", ["pocketspec.json", "tokenizer.json", "chat_template.jinja", "model.onnx"])
@pytest.mark.parametrize("damage", [folder, pipe, large, link_in_a_circle])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_no_file_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    damage(bundle / name)
    assert name in refused(capsys, "generate", bundle, "Hello", "--no-speculation")


# What a listed file must be changed to is known to its manifest: as if it had been exported so.
LISTED: dict[str, tuple[str, bytes]] = {
    "template that is not UTF-8": ("chat_template.jinja", b"\xff\xfe"),
    "template with a fault": ("chat_template.jinja", b"{% if %}"),
    "template that takes a gigabyte": ("chat_template.jinja", b"{{ 'x' * 10**9 }}"),
    "template that never ends": (
        "chat_template.jinja",
        b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ),
    "tokenizer that is none": ("tokenizer.json", b"{}"),
    "tokenizer that is nested": ("tokenizer.json", b"[" * 10_000),
    "tokenizer of which the library panics": (
        "tokenizer.json",
        b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["b a"], "continuing_subword_prefix": "##"}}',
    ),
    "configuration that is nested": ("tokenizer_config.json", b'{"a":' * 10_000),
    "graph that is none": ("model.onnx", b"no graph"),
}


@pytest.mark.parametrize(("name", "content"), LISTED.values(), ids=LISTED)
def test_files_that_cannot_be_used_are_refused(
    bundle: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    (bundle / name).write_bytes(content)
    entry = FileEntry(len(content), sha256_of(bundle / name))
    change_manifest(bundle, lambda data: data["files"].update({name: vars(entry)}))
    assert main(["generate", str(bundle), "Hello", "--no-speculation", "--kernels", "portable"]) == 2
    out, err = capfd.readouterr()
    *_, line = err.splitlines()  # behind what the system's own libraries write
    assert line.startswith("error: ")
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "drafters/near/model.onnx", "pocketspec.json"])
def test_links_that_leave_a_bundle_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.move(bundle / name, tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    assert "is a link that leaves" in refused(capsys, "generate", bundle, "Hello")


def test_links_to_folders_that_leave_a_bundle_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(bundle / "drafters", tmp_path / "drafters")
    (bundle / "drafters").symlink_to(tmp_path / "drafters")
    assert "is a link that leaves" in refused(capsys, "inspect", bundle)


def test_links_within_a_bundle_are_followed(bundle: Path) -> None:
    (bundle / "tokenizer.json").rename(bundle / "kept.json")
    (bundle / "tokenizer.json").symlink_to("kept.json")
    check_bundle(bundle, read_manifest(bundle))


@pytest.mark.parametrize("make", [write_foreign_bundle, write_weighty_bundle])
def test_a_snapshot_of_the_hubs_cache_is_a_bundle(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """It consists of links to the blobs of the same repository."""
    made, repository = make(tmp_path / "made"), tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in made.iterdir():
        shutil.copy(path, repository / "blobs" / sha256_of(path))
        (snapshot / path.name).symlink_to(Path("../../blobs") / sha256_of(path))
    check_bundle(snapshot, read_bundle(snapshot))
    (snapshot / "config.json").symlink_to("../../../made/config.json")
    with pytest.raises(ManifestError, match="is a link that leaves"):
        read_bundle(snapshot)


LOCATIONS = [b"../model.onnx.d", b"/etc/shadow....", b"drafters/x.data", b"model\\onnx.data", b"*/_ORT_MEM_ADDR"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_graphs_that_read_weights_from_elsewhere_are_refused(tmp_path: Path, location: bytes) -> None:
    bundle = write_weighty_bundle(tmp_path / "bundle")
    graph = bundle / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"model.onnx.data", location))
    entry = FileEntry(graph.stat().st_size, sha256_of(graph))
    change_manifest(bundle, lambda data: data["files"].update({"model.onnx": vars(entry)}))
    with pytest.raises(ManifestError, match=r"reads weights from .*; it is not opened"):
        check_bundle(bundle, read_bundle(bundle))


def test_weights_behind_a_link_that_leaves_the_bundle_are_refused(tmp_path: Path) -> None:
    bundle = write_weighty_bundle(tmp_path / "bundle")
    graph = bundle / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"model.onnx.data", b"other.onnx.data"))
    (bundle / "other.onnx.data").symlink_to(tmp_path / "elsewhere")
    entry = FileEntry(graph.stat().st_size, sha256_of(graph))
    change_manifest(bundle, lambda data: data["files"].update({"model.onnx": vars(entry)}))
    with pytest.raises(ManifestError, match=r"other.onnx.data is a link that leaves"):
        check_bundle(bundle, read_bundle(bundle))


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder.filename": "../../../etc/passwd"},
        {"decoder.num_key_value_heads": 0},
        {"decoder.head_size": "x"},
        {"context_length": 10**12},
        {"eos_token_id": ["x"]},
        {"vocab_size": -5},
        {"type": ["llama"]},
    ],
    ids=str,
)
def test_configurations_of_other_builders_have_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    bundle = write_foreign_bundle(tmp_path / "bundle")
    path = bundle / "genai_config.json"
    data = json.loads(path.read_text())
    for name, value in changes.items():
        holder = data["model"]["decoder"] if "." in name else data["model"]
        holder[name.split(".")[-1]] = value
    path.write_text(json.dumps(data))
    assert "genai_config.json" in refused(capsys, "generate", bundle, "Hello", "--raw")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_configurations_of_other_builders_that_are_no_json_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    bundle = write_foreign_bundle(tmp_path / "bundle")
    (bundle / "genai_config.json").write_bytes(text)
    assert "genai_config.json" in refused(capsys, "inspect", bundle)
