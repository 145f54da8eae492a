"""The description beside an exported graph: what was exported, from what, how well, and the hash of every file.

Everyone reads it, so it needs the standard library alone. The file is ``pocketspec.json`` at the root of a bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# 2: levels have a native form; 3: effects of KV types, agreement with the target, bytes read sparsely; 4: what was left
# out of the measurements, and why
SCHEMA = 4
FILE_NAME = "pocketspec.json"
PACKED_FILE_NAME = "native.data"  # made from the other files, on first use where it is missing: never listed or hashed
PACKING_TABLE_NAME = "native.json"  # how it is made

Role = Literal["target", "intermediate", "drafter"]


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
class Shape:
    """What the runtime and the memory model must know of a graph. ``vocab_size`` is the width of the logits."""

    layers: int
    hidden_size: int
    mlp_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    positions: int


@dataclass(frozen=True)
class Quantization:
    """How weights are stored. ``error`` is the root mean square error relative to the weights' own, over all blocks."""

    weights: Literal["int4", "int8", "fp16", "fp32"]
    block_size: int | None = None
    method: str | None = None
    error: float | None = None


@dataclass(frozen=True)
class Check:
    """Exported logits against the reference on real text.

    Differences are of logits; ``argmax_agreement`` in [0, 1]; perplexities per token; ``tokens`` is how many rows.
    """

    text: str
    tokens: int
    max_difference: float
    mean_difference: float
    argmax_agreement: float
    reference_perplexity: float
    perplexity: float


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer a model speaks: number of entries, a hash over (id, token), and its end tokens."""

    entries: int
    sha256: str
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None


@dataclass(frozen=True)
class NativeForm:
    """A level for our own kernels: ``graphs`` maps a KV type to a graph file in the level's folder.

    Their weights lie in ``data``, a file of ``data_bytes`` bytes in the packed ``layout``. It need not be there,
    for the runtime makes it from the portable weights, as ``table`` says.
    """

    graphs: Mapping[str, str]
    table: str
    data: str
    data_bytes: int
    layout: int


@dataclass(frozen=True)
class KvEffect:
    """What a KV type does to a level, as ratios to its own fp32 cache, both run by ``kernels``.

    ``speed``: plain steps a second behind ``rows`` rows of context; above 1 is faster. ``perplexity``: on the text of
    the level's check; above 1 is worse, None where the weights are random and it would say nothing. A check has a few
    hundred tokens: a ratio within a percent of 1 may as well be 1.
    """

    speed: float
    rows: int
    kernels: Literal["native", "portable"]
    perplexity: float | None = None


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
    folder: str
    architecture: str
    source: Source
    shape: Shape
    vocabulary: Vocabulary
    quantization: Quantization
    graphs: Mapping[str, str]
    weight_bytes: int
    tree: bool = True
    check: Check | None = None
    native: NativeForm | None = None
    kv_effects: Mapping[str, KvEffect] = field(default_factory=dict)
    agreement: float | None = None
    sparse_bytes: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A bundle: one target, any number of drafters and intermediates, and the files they consist of."""

    name: str
    levels: tuple[Level, ...]
    files: Mapping[str, FileEntry]
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
    """The manifest in ``text``; ``where`` names it in errors. Unknown fields and wrong types are refused."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where} is not JSON ({error}); export the bundle again") from None
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise ManifestError(f"{where} has no schema number; it is not a Pocketspec manifest")
    if data["schema"] > SCHEMA:
        raise ManifestError(
            f"{where} has schema {data['schema']}, this version reads up to {SCHEMA}; update pocketspec"
        )
    manifest: Manifest = build_record(Manifest, data, where)
    if sum(level.role == "target" for level in manifest.levels) != 1:
        raise ManifestError(f"{where} must describe exactly one target")
    return manifest


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of the bundle in folder ``bundle``."""
    path = bundle / FILE_NAME
    if not bundle.is_dir():
        raise ManifestError(f"no bundle at {bundle}: no such folder; make one with python -m export")
    if not path.is_file():
        raise ManifestError(f"no {FILE_NAME} in {bundle}; make a bundle with python -m export")
    return parse_manifest(path.read_text(encoding="utf-8"), str(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """Raises ManifestError at the first listed file that is missing, of another size, or changed."""
    for name, entry in manifest.files.items():
        path = bundle / name
        if not path.is_file():
            raise ManifestError(f"{path} is missing; export the bundle again")
        if (size := path.stat().st_size) != entry.bytes:
            raise ManifestError(f"{path} has {size} bytes, its manifest says {entry.bytes}; export the bundle again")
        if sha256_of(path) != entry.sha256:
            raise ManifestError(f"{path} was changed: its sha256 is not the manifest's; export the bundle again")


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Writes the manifest under a temporary name, then puts it in place."""
    part = bundle / (FILE_NAME + ".part")
    part.write_text(dump_manifest(manifest), encoding="utf-8")
    os.replace(part, bundle / FILE_NAME)


def build_record(kind: Any, data: Any, where: str) -> Any:
    """``data`` (parsed JSON) as an instance of the dataclass ``kind``; ManifestError names ``where`` and the field."""
    return _build(kind, data, where, "")


def _build(kind: Any, value: Any, where: str, path: str) -> Any:
    """``value`` (parsed JSON) as an instance of the annotation ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where, path)
    if origin is Literal and value in arguments:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _build(next(option for option in arguments if option is not NoneType), value, where, path)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: _build(arguments[1], item, where, f"{path}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ManifestError(f"{where}: field {path.lstrip('.')} has the value {value!r}, expected {kind}")


def _build_dataclass(kind: Any, value: Any, where: str, path: str) -> Any:
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: field {path.lstrip('.')} must be an object")
    hints = get_type_hints(kind)
    if unknown := set(value) - set(hints):
        raise ManifestError(f"{where}: unknown field {path.lstrip('.')}.{min(unknown)}")
    built = {name: _build(hints[name], item, where, f"{path}.{name}") for name, item in value.items()}
    try:
        return kind(**built)
    except TypeError:
        missing = [f.name for f in fields(kind) if f.name not in built and f.default is f.default_factory is MISSING]
        name = path.lstrip(".") or kind.__name__.lower()
        raise ManifestError(f"{where}: {name} lacks {', '.join(missing)}") from None
