"""The manifest of a bundle: what was exported, from what and how well, and the hash of every file.

It is ``pocketspec.json`` at the root of the bundle. Every package reads it, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
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

# 2: levels have a native form; 3: effects of KV types, agreement with the target, sparse bytes; 4: measurements left
# out, and why; 5: layers with states (convolutions, recurrences); 6: levels that draft in parallel; 7: layers that
# share KV caches, heads of two sizes, tables for every layer; 8: drafters that read hidden rows of the target, that
# have logits of a part of the vocabulary, or are part of the target; layers with experts; 9: drafters with a head for
# each token of a draft; which kinds of matrices stay floats
SCHEMA = 9
# Bundles are written as the earliest of these that has all they need, which earlier versions read as well.
_SCHEMA_WITHOUT_STATES, _SCHEMA_WITH_STATES, _SCHEMA_IN_PARALLEL, _SCHEMA_UNEVEN = 4, 5, 6, 7
_SCHEMA_WITH_TAPS = 8
FILE_NAME = "pocketspec.json"
PACKED_FILE_NAME = "native.data"  # made from the other files when it is missing: never listed or hashed
PACKING_TABLE_NAME = "native.json"  # how it is made
DRAFT_VOCABULARY_NAME = "draft_vocabulary.bin"  # the tokens of a drafter's logits, ascending: int32, little endian
DRAFT_TABLE_NAME = "draft_table.bin"  # in a bundle, what follows a few tokens; see runtime/bundle/draft_table.py
DEVICE_FOLDER = ".device"  # in a bundle, what was measured and made on a device: never listed or hashed
# Files beside graphs that are read if they exist.
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

MOST_HEADS = 64  # as many tokens as a draft in parallel may have
Role = Literal["target", "intermediate", "drafter"]
WeightType = Literal["int4", "int8", "fp16", "fp32"]
KvType = Annotated[str, OneOf("fp32", "fp16", "int8", "int4")]

# Bounds of fields: sizes beyond any model that exists are mistakes, or an attack.
Name = Annotated[str, FileName()]
Graph = Annotated[str, FileName(plain=True, ending=".onnx")]
ByteCount = Annotated[int, Within(0, 1 << 50)]
PositiveRatio = Annotated[float, Within(1e-9, 1e301)]
Difference = Annotated[float, Within(0, 1e301)]
Fraction = Annotated[float, Within(0, 1)]
Token = Annotated[int, Within(-1, (1 << 31) - 1)]  # some configurations have -1 for none
# A place in a decoder, by the number of layers before it: 0 is the embedding, the last one is in front of the norm.
Tap = Annotated[int, Within(0, 10_000)]


class PocketspecError(Exception):
    """An error that the user can put right. The message is one line: what, where, the limit, the remedy."""


class ManifestError(PocketspecError, ValueError):
    """A manifest that is missing, malformed, of another schema, or at odds with the files it lists."""


@dataclass(frozen=True)
class Source:
    """Where a model came from. ``kind`` distinguishes trained weights from the two stand-ins for timing."""

    id: str
    revision: str | None = None
    licence: str | None = None
    kind: Literal["trained", "random-weights", "timing-vehicle"] = "trained"


@dataclass(frozen=True)
class ConvolutionShape:
    """Causal convolutions: ``layers`` layers have one over ``channels`` channels, which sees ``width`` rows."""

    layers: Annotated[int, Within(1, 10_000)]
    channels: Annotated[int, Within(1, 1 << 24)]
    width: Annotated[int, Within(2, 64)]

    def state_bytes(self, held: int) -> int:
        """Bytes of the float32 rows that all layers keep, if ``held`` rows can be taken back."""
        return self.layers * (self.width - 1 + held) * self.channels * 4


@dataclass(frozen=True)
class RecurrenceShape:
    """Recurrent states: ``layers`` layers have one, float32 ``[heads, key_size, value_size]``.

    ``key_heads`` heads of keys serve ``heads // key_heads`` heads of values each.
    """

    layers: Annotated[int, Within(1, 10_000)]
    heads: Annotated[int, Within(1, 1 << 16)]
    key_heads: Annotated[int, Within(1, 1 << 16)]
    key_size: Annotated[int, Within(1, 1 << 16)]
    value_size: Annotated[int, Within(1, 1 << 16)]

    @property
    def update_size(self) -> int:
        """Numbers with which a row is repeated in one layer: a decay and a value for every head, and the keys."""
        return self.heads * (1 + self.value_size) + self.key_heads * self.key_size

    def state_bytes(self, held: int) -> int:
        """Bytes of all layers: the states, and the updates of ``held`` rows, float32."""
        return self.layers * (self.heads * self.key_size * self.value_size + held * self.update_size) * 4


@dataclass(frozen=True)
class ExpertShape:
    """Routed experts: ``layers`` layers have ``count`` each, MLPs of width ``mlp_size``; a row uses ``used`` of them.

    ``router`` says how the weights of the router that chooses them are stored; those of the experts are stored as the
    level's ``Quantization`` says.
    """

    layers: Annotated[int, Within(1, 10_000)]
    count: Annotated[int, Within(1, 1 << 16)]
    used: Annotated[int, Within(1, 1 << 16)]
    mlp_size: Annotated[int, Within(1, 1 << 24)]
    router: Literal["fp32"] = "fp32"


@dataclass(frozen=True)
class WideLayers:
    """``layers`` of the layers with a KV cache have ``kv_heads`` heads of ``head_size``, unlike the rest."""

    layers: Annotated[int, Within(1, 10_000)]
    kv_heads: Annotated[int, Within(1, 1 << 16)]
    head_size: Annotated[int, Within(1, 1 << 16)]


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a graph that runtime and planner must know. ``vocab_size`` tokens have an embedding, and logits if
    those are not of fewer (``Level.logits_width``).

    ``attention_layers`` of the ``layers`` have a KV cache (None: all of them). The others have states, or attend to the
    KV caches of earlier ones. ``layer_table`` is the width of a table that gives every token numbers for every layer
    (None: there is none).
    """

    layers: Annotated[int, Within(0, 10_000)]
    hidden_size: Annotated[int, Within(1, 1 << 20)]
    mlp_size: Annotated[int, Within(1, 1 << 24)]
    heads: Annotated[int, Within(1, 1 << 16)]
    kv_heads: Annotated[int, Within(1, 1 << 16)]
    head_size: Annotated[int, Within(1, 1 << 16)]
    vocab_size: Annotated[int, Within(1, 1 << 26)]
    positions: Annotated[int, Within(1, 1 << 30)]
    attention_layers: Annotated[int, Within(0, 10_000)] | None = None
    convolutions: ConvolutionShape | None = None
    recurrences: RecurrenceShape | None = None
    wide: WideLayers | None = None
    layer_table: Annotated[int, Within(1, 1 << 26)] | None = None
    experts: ExpertShape | None = None

    @property
    def layer_inputs(self) -> int:
        """Numbers that a row gets from the table for every layer, all layers together."""
        return self.layer_table or 0

    @property
    def kv_layers(self) -> int:
        """Layers that have a KV cache."""
        return self.layers if self.attention_layers is None else self.attention_layers

    @property
    def has_states(self) -> bool:
        """Whether layers have convolution or recurrent states."""
        return self.convolutions is not None or self.recurrences is not None

    def state_bytes(self, held: int) -> int:
        """Bytes of the states of all layers, if ``held`` rows can be taken back."""
        return sum(part.state_bytes(held) for part in (self.convolutions, self.recurrences) if part is not None)

    @property
    def shares_caches(self) -> bool:
        """Whether layers attend to the KV caches of earlier ones."""
        return self.kv_layers < self.layers and not self.has_states

    @property
    def kv_heads_by_size(self) -> tuple[tuple[int, int], ...]:
        """How many heads of keys all KV caches have together, and of which size: (heads, head_size)."""
        wide = () if self.wide is None else ((self.wide.layers * self.wide.kv_heads, self.wide.head_size),)
        narrow = self.kv_layers - (0 if self.wide is None else self.wide.layers)
        return ((narrow * self.kv_heads, self.head_size), *wide)

    @property
    def widest(self) -> ModelShape:
        """This shape if all layers were like those with the largest heads."""
        if self.wide is None or self.wide.head_size < self.head_size:
            return self
        return replace(self, kv_heads=self.wide.kv_heads, head_size=self.wide.head_size)


@dataclass(frozen=True)
class Quantization:
    """How weights are stored. ``error``: root mean square error over all blocks, relative to the weights' own.

    ``kept``: the kinds of matrices that are stored as floats instead, by the last part of their module's name (the taps
    of convolutions, routers).
    """

    weights: WeightType
    block_size: Annotated[int, Within(1, 1 << 20)] | None = None
    method: str | None = None
    error: Difference | None = None
    kept: Mapping[str, Annotated[str, OneOf("fp32", "fp16")]] = field(default_factory=dict)


@dataclass(frozen=True)
class LogitCheck:
    """Exported logits compared with the reference on ``tokens`` tokens of real text.

    Differences are of logits; ``argmax_agreement`` is a share in [0, 1]; perplexities are per token.
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
    """A model's tokenizer: number of entries, a hash over the pairs (id, token), its end tokens and its begin token."""

    entries: Annotated[int, Within(1, 1 << 26)]
    sha256: str
    eos_token_ids: tuple[Token, ...]
    bos_token_id: Token | None = None


@dataclass(frozen=True)
class NativeForm:
    """A level for our own kernels: ``graphs`` maps a KV type to a graph file in the level's folder.

    Their weights lie in ``data``, a file of ``data_bytes`` bytes in the packed ``layout``. It may be missing: the
    runtime makes it from the portable weights, as ``table`` describes.
    """

    graphs: Mapping[KvType, Graph]
    table: Annotated[str, OneOf(PACKING_TABLE_NAME)]
    data: Annotated[str, OneOf(PACKED_FILE_NAME)]
    data_bytes: ByteCount
    layout: Annotated[int, Within(0, 1 << 16)]


@dataclass(frozen=True)
class KvEffect:
    """What a KV type does to a level, as ratios to the level's fp32 cache, both run by ``kernels``.

    ``speed``: of plain steps behind ``rows`` rows of context; above 1 is faster. ``perplexity``: on the text of the
    level's check; above 1 is worse; None with random weights, where it means nothing. A check has a few hundred tokens,
    so a ratio within a percent of 1 may be noise.
    """

    speed: Annotated[float, Within(1e-6, 1e6)]
    rows: Annotated[int, Within(0, 1 << 30)]
    kernels: Literal["native", "portable"]
    perplexity: PositiveRatio | None = None


@dataclass(frozen=True)
class ParallelDrafts:
    """Of a level that drafts several tokens with one forward (PARD): ``mask_token`` is its input for tokens that are
    not known, ``longest`` the most tokens of a draft.
    """

    mask_token: Annotated[int, Within(0, (1 << 31) - 1)]
    longest: Annotated[int, Within(2, 64)]


@dataclass(frozen=True)
class DraftHeads:
    """Of a drafter with a head of its own for each token of a draft: ``count`` heads, and hidden rows of its own of
    ``own_hidden`` numbers. ``together``: one forward computes the whole draft, since no head reads drafted tokens.
    """

    count: Annotated[int, Within(1, MOST_HEADS)]
    own_hidden: Annotated[int, Within(1, 1 << 26)]
    together: bool


@dataclass(frozen=True)
class DraftVocabulary:
    """Of a drafter whose head was cut to a part of the vocabulary: its logits are of ``tokens`` tokens.

    Their ids are in ``DRAFT_VOCABULARY_NAME`` in the level's folder. They were the most frequent ones of ``text``, of
    whose tokens they are the share ``covered``; both are None where they are the first of the tokenizer.
    """

    tokens: Annotated[int, Within(2, 1 << 26)]
    text: str | None = None
    covered: Fraction | None = None


@dataclass(frozen=True)
class SelfDraft:
    """Of a drafter that is part of the target: it has neither weights nor a KV cache of its own, and runs with native
    kernels alone. ``part``: "halves" are the high halves of the target's int8 codes, which are int4 codes.
    """

    part: Literal["halves"]


@dataclass(frozen=True)
class Level:
    """One exported model. ``graphs`` maps a KV type to a graph file in ``folder`` (relative to the bundle).

    ``native``: None if our own kernels cannot run the level. ``kv_effects``: of the KV types that were measured, fp32
    aside, which they are compared with. ``agreement``, of drafters and intermediates, in [0, 1]: the share of the
    tokens of the target's greedy answers to mixed prompts that are their first choice as well; None if it was not
    measured. ``sparse_bytes``: of ``weight_bytes``, those of tables of which a step reads a few rows (an embedding that
    is not tied to the head, rotary tables). ``left_out``: measurements ("kv_effects", "agreement") that could not be
    made where the level was exported, each with the reason. ``parallel``: None if it drafts token by token. ``taps``:
    of the target, where its graph gives its hidden rows as outputs. ``reads``: of a drafter, the taps whose rows it
    reads, side by side; none if it reads tokens alone. ``draft_vocabulary``: None if its logits are of the whole
    vocabulary. ``self_draft``: None if it has weights of its own; otherwise ``graphs`` and ``weight_bytes`` are empty
    and 0, and ``native.data_bytes`` are the bytes that it reads of the target's. ``heads``: None if one head, or a
    model, drafts all tokens.
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
    check: LogitCheck | None = None
    native: NativeForm | None = None
    kv_effects: Mapping[KvType, KvEffect] = field(default_factory=dict)
    agreement: Fraction | None = None
    sparse_bytes: ByteCount = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    parallel: ParallelDrafts | None = None
    taps: tuple[Tap, ...] = ()
    reads: tuple[Tap, ...] = ()
    draft_vocabulary: DraftVocabulary | None = None
    self_draft: SelfDraft | None = None
    heads: DraftHeads | None = None

    @property
    def logits_width(self) -> int:
        """The number of tokens that its logits are of."""
        return self.shape.vocab_size if self.draft_vocabulary is None else self.draft_vocabulary.tokens

    @property
    def drafts_trees(self) -> bool:
        """Whether it can draft trees: its graph takes them, and it drafts token by token."""
        return self.tree and self.parallel is None

    @property
    def first_token(self) -> int:
        """The token of a text with which it begins: a prediction head with the second, beside hidden rows of the first.

        PARD-2 begins with the first, beside zeros.
        """
        return 1 if self.reads and self.parallel is None else 0

    @property
    def drafts_in_parallel(self) -> bool:
        """Whether one forward computes a whole draft."""
        return self.parallel is not None or (self.heads is not None and self.heads.together)

    @property
    def own_hidden(self) -> int:
        """Numbers of a hidden row of its own, if it reads those of the target."""
        return self.shape.hidden_size if self.heads is None else self.heads.own_hidden

    @property
    def longest(self) -> float:
        """The most tokens of a chain that it drafts."""
        if self.heads is not None:
            return self.heads.count
        return math.inf if self.parallel is None else self.parallel.longest

    def chain_within(self, nodes: int) -> int:
        """The longest chain of at most ``nodes`` tokens that it drafts."""
        return int(min(nodes, self.longest))


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file of the bundle."""

    bytes: ByteCount
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A bundle: one target, any number of drafters and intermediates, and all their files."""

    name: str
    levels: tuple[Level, ...]
    files: Mapping[Name, FileEntry]
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: int = _SCHEMA_WITHOUT_STATES

    @property
    def target(self) -> Level:
        """The level whose output is reproduced exactly."""
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


def parallel_levels(manifest: Manifest) -> dict[str, ParallelDrafts]:
    """The levels that draft in parallel, by name."""
    return {level.name: level.parallel for level in manifest.levels if level.parallel is not None}


def levels_in_parallel(manifest: Manifest) -> frozenset[str]:
    """The levels of which one forward computes a whole draft."""
    return frozenset(level.name for level in manifest.levels if level.drafts_in_parallel)


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as JSON text, ending in a line break."""
    data = asdict(manifest)
    for level in data["levels"]:
        level["shape"] = {name: value for name, value in level["shape"].items() if value is not None}
        for name in ("parallel", "taps", "reads", "draft_vocabulary", "self_draft", "heads"):
            if not level[name]:
                del level[name]
        if not level["quantization"]["kept"]:
            del level["quantization"]["kept"]
    shapes = [level.shape for level in manifest.levels]
    if any(level.heads is not None or level.quantization.kept for level in manifest.levels):
        data["schema"] = SCHEMA
    elif any(_needs_taps(level) for level in manifest.levels):
        data["schema"] = _SCHEMA_WITH_TAPS
    elif any(shape.shares_caches or shape.wide is not None or shape.layer_table is not None for shape in shapes):
        data["schema"] = _SCHEMA_UNEVEN
    elif any(level.parallel is not None for level in manifest.levels):
        data["schema"] = _SCHEMA_IN_PARALLEL
    elif any(shape.has_states for shape in shapes):
        data["schema"] = _SCHEMA_WITH_STATES
    return json.dumps(data, indent=2) + "\n"


def _needs_taps(level: Level) -> bool:
    """Whether no reader of a schema before 8 knows what a level has."""
    return bool(level.taps or level.reads or level.draft_vocabulary or level.shape.experts or level.self_draft)


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest in ``text``; ``where`` names it in errors. ManifestError for what no export writes."""
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
    """What is wrong with a manifest of valid fields that no export writes."""
    if sum(level.role == "target" for level in manifest.levels) != 1:
        yield "it must describe exactly one target"
    for what, values in (
        ("name", [level.name for level in manifest.levels]),
        ("folder", [level.folder for level in manifest.levels if level.self_draft is None]),
    ):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            yield f"two levels have the {what} {twice[0]!r}"
    for level in manifest.levels:
        shape = level.shape
        if not level.name or len(level.name) > 200:
            yield f"a level has the name {level.name!r}"
        if shape.heads % shape.kv_heads:
            yield f"{level.name} has {shape.heads} heads over {shape.kv_heads} KV heads, which does not divide"
        if shape.kv_layers > shape.layers or (shape.wide is not None and shape.wide.layers > shape.kv_layers):
            yield f"{level.name} has more layers with a KV cache than layers"
        if shape.wide is not None and shape.heads % shape.wide.kv_heads:
            yield f"{level.name} has {shape.heads} heads over {shape.wide.kv_heads} KV heads, which does not divide"
        if shape.recurrences is not None and shape.recurrences.heads % shape.recurrences.key_heads:
            yield f"{level.name} has recurrent states whose heads of keys do not divide their heads"
        experts = shape.experts
        if experts is not None and (experts.used > experts.count or experts.layers > shape.layers):
            yield (
                f"{level.name} uses {experts.used} of {experts.count} experts in {experts.layers} of {shape.layers}"
                " layers, which is more than there are"
            )
        if not (level.graphs or level.self_draft) or (level.native and not level.native.graphs):
            yield f"{level.name} has no graphs"
        if level.self_draft is not None and _is_no_part(level, manifest):
            yield f"{level.name} is no part of the target"
        if level.parallel is not None and level.role != "drafter":
            yield f"{level.name} drafts in parallel, and is no drafter"
        if level.parallel is not None and level.parallel.mask_token >= shape.vocab_size:
            yield f"{level.name} has the mask token {level.parallel.mask_token} of {shape.vocab_size}"
        if level.draft_vocabulary is not None and level.role != "drafter":
            yield f"{level.name} has logits of a part of the vocabulary, and is no drafter"
        if level.logits_width > shape.vocab_size:
            yield f"{level.name} has logits of {level.logits_width} of {shape.vocab_size} tokens"
        if level.sparse_bytes > level.weight_bytes:
            yield f"{level.name} has more sparse bytes than bytes"
        yield from _tap_faults(level, manifest)
    for name in manifest.files:
        if name == FILE_NAME or name.split("/")[0] == DEVICE_FOLDER:
            yield f"it lists {name!r}, which is no part of what was exported"


def _tap_faults(level: Level, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the taps that a level gives or reads."""
    target = next((level for level in manifest.levels if level.role == "target"), level)
    if (level.taps and level is not target) or (level.reads and level.role != "drafter"):
        yield f"{level.name} is {level.role}, and its taps are those of another role"
    if max(level.taps, default=0) > level.shape.layers or len(set(level.taps)) < len(level.taps):
        yield f"{level.name} has taps {list(level.taps)} in {level.shape.layers} layers"
    if lacking := set(level.reads) - set(target.taps):
        yield f"{level.name} reads the target after layer {min(lacking)}, where it has no tap"
    if (level.heads is not None and not level.reads) or (level.shape.layers == 0 and level.heads is None):
        yield f"{level.name} has neither layers nor heads that read the target"


def _is_no_part(level: Level, manifest: Manifest) -> bool:
    """Whether ``level`` cannot be a part of the target, by what the manifest says."""
    target = next((other for other in manifest.levels if other.role == "target"), level)
    if level.native is None or target.native is None or level.graphs or level.weight_bytes or target.shape.has_states:
        return True
    own, others = (asdict(one) for one in (level.shape, target.shape))
    same = level.folder == target.folder and own == others and set(level.native.graphs) >= set(target.native.graphs)
    return level.role != "drafter" or level.parallel is not None or not same


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of the bundle in folder ``bundle``; ManifestError also if a link of its files leaves the bundle."""
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


def refuse_links(bundle: Path, names: Iterable[str]) -> None:
    """ManifestError if one of the files ``names`` of folder ``bundle`` is reached by a link that leaves it."""
    if name := next(leaving_links(bundle, names), None):
        raise ManifestError(f"{bundle / name} is a link that leaves {bundle}; put the file itself there")


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Writes the manifest under a temporary name, then puts it in place."""
    write_whole(bundle / FILE_NAME, dump_manifest(manifest).encode())
