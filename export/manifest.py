"""The description beside an exported graph: what was exported, from what, how well, and the hash of every file.

Everyone reads it, so it needs the standard library alone. The file is ``pocketspec.json`` at the root of a bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from export.own_files import write_whole
from export.records import build_record
from export.untrusted import (
    MOST_JSON,
    FileName,
    OneOf,
    UntrustedError,
    Within,
    leaving_links,
    parse_own_json,
    read_text,
    shown,
)

# 2: levels have a native form; 3: effects of KV types, agreement with the target, bytes read sparsely; 4: what was left
# out of the measurements, and why
SCHEMA = 4
FILE_NAME = "pocketspec.json"
PACKED_FILE_NAME = "native.data"  # made from the other files, on first use where it is missing: never listed or hashed
PACKING_TABLE_NAME = "native.json"  # how it is made
DEVICE_FOLDER = ".device"  # what was found out and made on a device, in a bundle: never listed or hashed
# Files beside graphs that are read where they are there.
TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "genai_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)

Role = Literal["target", "intermediate", "drafter"]
WeightType = Literal["int4", "int8", "fp16", "fp32"]
KvType = Annotated[str, OneOf("fp32", "fp16", "int8", "int4")]

# Bounds of what can be: sizes of models that nobody has made are typing errors, or worse.
Name = Annotated[str, FileName()]
Graph = Annotated[str, FileName(plain=True, ending=".onnx")]
ByteCount = Annotated[int, Within(0, 1 << 50)]
PositiveRatio = Annotated[float, Within(1e-9, 1e301)]
Difference = Annotated[float, Within(0, 1e301)]
Fraction = Annotated[float, Within(0, 1)]
Token = Annotated[int, Within(-1, (1 << 31) - 1)]  # some configurations say -1 for none


class PocketspecError(Exception):
    """Something a user can put right. The message is one line: the thing, where, the limit, the remedy."""


class ManifestError(PocketspecError, ValueError):
    """A manifest that is missing, malformed, of another schema, or at odds with the files it lists."""


@dataclass(frozen=True)
class Source:
    """Where a model came from. ``kind`` tells trained weights from the two stand-ins that only time things."""

    id: str
    revision: str | None = None
    licence: str | None = None
    kind: Literal["trained", "random-weights", "timing-vehicle"] = "trained"


@dataclass(frozen=True)
class ModelShape:
    """What the runtime and the memory model must know of a graph. ``vocab_size`` is the width of the logits."""

    layers: Annotated[int, Within(1, 10_000)]
    hidden_size: Annotated[int, Within(1, 1 << 20)]
    mlp_size: Annotated[int, Within(1, 1 << 24)]
    heads: Annotated[int, Within(1, 1 << 16)]
    kv_heads: Annotated[int, Within(1, 1 << 16)]
    head_size: Annotated[int, Within(1, 1 << 16)]
    vocab_size: Annotated[int, Within(1, 1 << 26)]
    positions: Annotated[int, Within(1, 1 << 30)]


@dataclass(frozen=True)
class Quantization:
    """How weights are stored. ``error`` is the root mean square error relative to the weights' own, over all blocks."""

    weights: WeightType
    block_size: Annotated[int, Within(1, 1 << 20)] | None = None
    method: str | None = None
    error: Difference | None = None


@dataclass(frozen=True)
class Check:
    """Exported logits against the reference on real text.

    Differences are of logits; ``argmax_agreement`` in [0, 1]; perplexities per token; ``tokens`` is how many rows.
    """

    text: str
    tokens: Annotated[int, Within(1, 1 << 40)]
    max_difference: Difference
    mean_difference: Difference
    argmax_agreement: Fraction
    reference_perplexity: PositiveRatio
    perplexity: PositiveRatio


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer a model speaks: number of entries, a hash over (id, token), and its end tokens."""

    entries: Annotated[int, Within(1, 1 << 26)]
    sha256: str
    eos_token_ids: tuple[Token, ...]
    bos_token_id: Token | None = None


@dataclass(frozen=True)
class NativeForm:
    """A level for our own kernels: ``graphs`` maps a KV type to a graph file in the level's folder.

    Their weights lie in ``data``, a file of ``data_bytes`` bytes in the packed ``layout``. It need not be there,
    for the runtime makes it from the portable weights, as ``table`` says.
    """

    graphs: Mapping[KvType, Graph]
    table: Annotated[str, OneOf(PACKING_TABLE_NAME)]
    data: Annotated[str, OneOf(PACKED_FILE_NAME)]
    data_bytes: ByteCount
    layout: Annotated[int, Within(0, 1 << 16)]


@dataclass(frozen=True)
class KvEffect:
    """What a KV type does to a level, as ratios to its own fp32 cache, both run by ``kernels``.

    ``speed``: plain steps a second behind ``rows`` rows of context; above 1 is faster. ``perplexity``: on the text of
    the level's check; above 1 is worse, None where the weights are random and it would say nothing. A check has a few
    hundred tokens: a ratio within a percent of 1 may as well be 1.
    """

    speed: Annotated[float, Within(1e-6, 1e6)]
    rows: Annotated[int, Within(0, 1 << 30)]
    kernels: Literal["native", "portable"]
    perplexity: PositiveRatio | None = None


@dataclass(frozen=True)
class Level:
    """One exported model. ``graphs`` maps a KV type to a graph file in ``folder`` (relative to the bundle).

    ``native`` is None where our own kernels cannot run it. ``kv_effects`` has the KV types that were measured, but for
    fp32, which they are measured against. ``agreement`` in [0, 1], of drafters and intermediates: the share of tokens
    of the target's own greedy answers to prompts of mixed kinds that they find most probable, too; None where it was
    not measured. ``sparse_bytes``: of ``weight_bytes``, those of tables of which a step reads a few rows alone (an
    embedding that is not tied to the head, rotary tables). ``left_out``: measurements that could not be made where the
    level was exported ("kv_effects", "agreement"), each with the reason.
    """

    name: str
    role: Role
    folder: Literal["."] | Name
    architecture: str
    source: Source
    shape: ModelShape
    vocabulary: Vocabulary
    quantization: Quantization
    graphs: Mapping[KvType, Graph]
    weight_bytes: ByteCount
    tree: bool = True
    check: Check | None = None
    native: NativeForm | None = None
    kv_effects: Mapping[KvType, KvEffect] = field(default_factory=dict)
    agreement: Fraction | None = None
    sparse_bytes: ByteCount = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file of the bundle."""

    bytes: ByteCount
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A bundle: one target, any number of drafters and intermediates, and the files they consist of."""

    name: str
    levels: tuple[Level, ...]
    files: Mapping[Name, FileEntry]
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def target(self) -> Level:
        """The level whose output must be reproduced."""
        return next(level for level in self.levels if level.role == "target")

    def level(self, name: str) -> Level:
        """The level called ``name``; ManifestError lists the names there are."""
        for level in self.levels:
            if level.name == name:
                return level
        known = ", ".join(level.name for level in self.levels)
        raise ManifestError(f"no level {name!r} in bundle {self.name!r}; it has: {known}")

    def drafters(self) -> tuple[Level, ...]:
        """The drafters, in the order of export: the first one is the default."""
        return tuple(level for level in self.levels if level.role == "drafter")


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as JSON text, ending in a line break."""
    return json.dumps(asdict(manifest), indent=2) + "\n"


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest in ``text``; ``where`` names it in errors. Unknown fields, wrong types and bounds are refused."""
    try:
        data = parse_own_json(text)
    except UntrustedError as error:
        raise ManifestError(f"{where} {error}; export the bundle again") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if type(schema) is not int or schema < 1:
        raise ManifestError(f"{where} has no schema number; it is not a Pocketspec manifest")
    if schema > SCHEMA:
        raise ManifestError(f"{where} has schema {shown(schema)}, this version reads up to {SCHEMA}; update pocketspec")
    try:
        manifest: Manifest = build_record(Manifest, data, where)
    except UntrustedError as error:
        raise ManifestError(f"{error}; export the bundle again") from None
    if fault := next(_faults(manifest), None):
        raise ManifestError(f"{where}: {fault}; export the bundle again")
    return manifest


def _faults(manifest: Manifest) -> Iterator[str]:
    """What no export writes, though every field is what it should be."""
    if sum(level.role == "target" for level in manifest.levels) != 1:
        yield "it must describe exactly one target"
    for what, values in (
        ("name", [level.name for level in manifest.levels]),
        ("folder", [level.folder for level in manifest.levels]),
    ):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            yield f"two levels have the {what} {twice[0]!r}"
    for level in manifest.levels:
        shape = level.shape
        if not level.name or len(level.name) > 200:
            yield f"a level has the name {level.name!r}"
        if shape.heads % shape.kv_heads:
            yield f"{level.name} has {shape.heads} heads over {shape.kv_heads} KV heads, which does not divide"
        if not level.graphs or (level.native and not level.native.graphs):
            yield f"{level.name} has no graphs"
        if level.sparse_bytes > level.weight_bytes:
            yield f"{level.name} has more sparse bytes than bytes"
    for name in manifest.files:
        if name == FILE_NAME or name.split("/")[0] == DEVICE_FOLDER:
            yield f"it lists {name!r}, which is no part of what was exported"


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of the bundle in folder ``bundle``, all of whose files lie in the bundle."""
    path = bundle / FILE_NAME
    if not os.path.isdir(bundle):
        raise ManifestError(f"no bundle at {bundle}: no such folder; make one with python -m export")
    try:
        text = read_text(path, MOST_JSON)
    except FileNotFoundError:
        raise ManifestError(f"no {FILE_NAME} in {bundle}; make a bundle with python -m export") from None
    except UntrustedError as error:
        raise ManifestError(f"{path} {error}; export the bundle again") from None
    manifest = parse_manifest(text, str(path))
    refuse_links(bundle, (FILE_NAME, *manifest.files, *TEXT_FILES))
    return manifest


def check_listed(bundle: Path, manifest: Manifest) -> None:
    """ManifestError if a level names a file that is not listed: nobody could tell it from another."""
    for name in _named(manifest):
        if name not in manifest.files:
            path = bundle / FILE_NAME
            raise ManifestError(f"{path} names {name!r} and does not list it among its files; export the bundle again")


def _named(manifest: Manifest) -> Iterator[str]:
    """The files that levels name, by their path in the bundle; packed weights are not exported."""
    for level in manifest.levels:
        names = list(level.graphs.values())
        if level.native is not None:
            names += [*level.native.graphs.values(), level.native.table]
        yield from (name if level.folder == "." else f"{level.folder}/{name}" for name in names)


def refuse_links(bundle: Path, names: Iterable[str]) -> None:
    """ManifestError if one of the files ``names`` of folder ``bundle`` is reached by a link that leaves it."""
    if name := next(leaving_links(bundle, names), None):
        raise ManifestError(f"{bundle / name} is a link that leaves {bundle}; put the file itself there")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """Raises ManifestError at the first listed file that is missing, of another size, or changed."""
    for name, entry in manifest.files.items():
        path = bundle / name
        if not os.path.isfile(path):
            raise ManifestError(f"{path} is missing; export the bundle again")
        if (size := path.stat().st_size) != entry.bytes:
            raise ManifestError(f"{path} has {size} bytes, its manifest says {entry.bytes}; export the bundle again")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ManifestError(f"{path} cannot be read ({error.strerror}); see who may read it") from None
        if found != entry.sha256:
            raise ManifestError(f"{path} was changed: its sha256 is not the manifest's; export the bundle again")


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Writes the manifest under a temporary name, then puts it in place."""
    write_whole(bundle / FILE_NAME, dump_manifest(manifest).encode())
