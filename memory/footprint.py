"""Every byte of a level and of the process, part by part and by kind: anonymous, hot and cold.

Anonymous memory can be given back by the process alone. Pages of mapped files can be dropped by the system and read
again. *Hot* pages are those that are in memory while steps run: libraries, weights, and of tables the rows that are
read. The rest is *cold*: evicting it costs nothing that a user would notice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from export.manifest import DRAFT_TABLE_NAME, Level, Manifest, ModelShape, Quantization
from memory.activations import OperatorScratch, native_activations, native_scratch, portable_activations
from memory.device import Residence
from memory.experts import expert_bytes
from memory.hidden_rows import hidden_bytes
from memory.layer_states import held_rows, state_bytes
from memory.process import ProcessBytes

MIB = 1 << 20
LIBRARIES = "Python and libraries"
SESSION = "first session"
APPLICATION = "application"
KEPT = "kept conversations"
STATES = "states"
HIDDEN = "hidden rows"
EXPERTS = "experts"
CONSTRAINTS = "constraints"
SUFFIX_STORE = "suffix store"
DRAFT_TABLE = "draft table"

# Bytes that the suffix drafter keeps per token of the context, as tests/runtime/drafters/test_suffix.py checks.
SUFFIX_BYTES_PER_TOKEN = 36

# Anonymous bytes of a tokenizer: for every slot of its hash tables, whose number is a power of two with an eighth to
# spare, and, while it is parsed, for every byte of tokenizer.json. Bundles before schema 3 have tokenizers as they were
# published, which take more (Qwen2: 48 MB open and 128 MB while parsed, where compact ones take 40 and 64 MB).
_TOKENIZER_SLOT, _TOKENIZER_PARSE = 155, 5.0
_PUBLISHED_SLOT, _PUBLISHED_PARSE = 182, 7.1
_COMPACT_SINCE = 3
# What ONNX Runtime keeps for a graph and for each of its layers (28 layers: 3.8 MiB native, 5.4 prepacked). The first
# session's own part, with its graph, is counted with the process.
GRAPH_BYTES = int(0.17 * MIB)
_LAYER_NATIVE = int(0.0854 * MIB)
_LAYER_PORTABLE = int(0.145 * MIB)
# Bytes that Linux maps around a touched page of a file. Linux 6.18 maps more where the page cache has larger folios.
_FAULT_AROUND = 1 << 16
_PANEL_ROWS = 16  # rows of an embedding that lie together in the packed weights
# Logits that a graph holds beside its output while ONNX Runtime's operators cap them, by architecture. Measured with
# Gemma 4: 27 MB for 13 rows of 262,144.
_CAPPED_LOGITS = {"gemma2": 2, "gemma3n_text": 2, "gemma4_text": 2}
# Bytes that sampling keeps for each entry of the vocabulary: three arrays of float32 and a mask.
_SAMPLING = 13
# The most that constrained answers take, to a schema as usual: the trie of the vocabulary while it is built, or with
# parsers and masks. Measured in fresh processes, llguidance 1.9.1: 5.0 MB at 4,096 entries (the demo), 21.2 at 49,152
# (SmolLM), 58.3 at 151,936 (Qwen2).
_CONSTRAINTS, _CONSTRAINT_ENTRY = 3_500_000, 360
# What the dearest constraints take more than usual ones: an enumeration as long as a constraint may be, or as many
# states of the lexer as there may be (runtime/constraints). Measured like that: 9.2 MB at 300 entries, 7.8 at 4,096,
# 5.8 at 49,152, 3.3 at 151,936.
_DEAREST_CONSTRAINT = 10_000_000
# Pages of its library that are in memory then.
_CONSTRAINT_LIBRARY = 6_400_000
# Python's own objects in a conversation, and fragmentation of the heap.
_OBJECTS = 1_000_000
_LEAST_MARGIN = 4 * MIB
_MARGIN_SHARE = 0.05
# A page of 4,096 bytes has an entry of 8 bytes in the page tables.
_BYTES_PER_TABLE_BYTE = 512


@dataclass(frozen=True)
class Part:
    """The bytes of one part, by kind."""

    name: str
    anonymous: int = 0
    hot: int = 0
    cold: int = 0


@dataclass(frozen=True)
class Footprint:
    """Predicted bytes of a level or of the process, part by part. ``total`` bytes must stay in memory."""

    parts: tuple[Part, ...]

    @property
    def anonymous(self) -> int:
        """Bytes that the process alone can give back."""
        return sum(part.anonymous for part in self.parts)

    @property
    def hot(self) -> int:
        """Bytes of mapped files that are in memory while steps run."""
        return sum(part.hot for part in self.parts)

    @property
    def cold(self) -> int:
        """Bytes of mapped files that the system may evict without slowing steps down."""
        return sum(part.cold for part in self.parts)

    @property
    def total(self) -> int:
        """Anonymous and hot bytes together."""
        return self.anonymous + self.hot

    def part(self, name: str) -> Part:
        """The part called ``name``, an empty one if there is none."""
        return next((part for part in self.parts if part.name == name), Part(name))


@dataclass(frozen=True)
class LevelSizes:
    """The sizes that a level is opened with.

    ``capacity``: rows of the KV cache, of ``kv_type``. ``rows``: most rows of a forward of a draft, which is a tree if
    ``tree``; ``logits_rows``: rows of it whose logits are computed. ``prefill_chunk``: rows of a prompt at once.
    ``kept_rows``: copies of rows of other conversations, which are ``kept_copies``. ``hidden_rows``: hidden rows that
    are kept, of ``hidden_width`` numbers each; a drafter that reads hidden rows has a width and keeps none.
    """

    kv_type: str
    capacity: int
    rows: int
    logits_rows: int
    prefill_chunk: int
    tree: bool
    kept_rows: int = 0
    kept_copies: int = 0
    hidden_rows: int = 0
    hidden_width: int = 0


def kv_row_bytes(head_size: int, kv_type: str, residence: Residence) -> int:
    """Bytes of one row of one KV head. Native int8 and int4 rows have 4 bytes of scales, portable ones have none."""
    scale = 4 if residence == "native" else 0
    return {"fp32": 4 * head_size, "fp16": 2 * head_size, "int8": head_size + scale, "int4": head_size // 2 + scale}[
        kv_type
    ]


def kv_bytes_per_token(shape: ModelShape, kv_type: str, residence: Residence = "native") -> int:
    """Bytes that a token takes in the KV cache: layers that have one * 2 * kv_heads * bytes of a row.

    Qwen2-1.5B in fp16: 28 * 2 * 2 * 128 * 2 = 28,672 B. Gemma 4 E2B, of whose 35 layers 15 have a cache, 3 of them with
    heads twice as large: (12 * 2 * 256 + 3 * 2 * 512) * 2 = 18,432 B.
    """
    return sum(2 * heads * kv_row_bytes(size, kv_type, residence) for heads, size in shape.kv_heads_by_size)


def level_footprint(
    level: Level, sizes: LevelSizes, residence: Residence, threads: int, one_caller: bool = False
) -> Footprint:
    """The footprint of a level whose weights lie in memory as ``residence`` says, run by ``threads`` threads.

    With ``one_caller`` the first of them calls all levels, and what it keeps is counted with the process.
    """
    shape, scratch = level.shape, scratch_of(level, sizes, residence)
    return Footprint(
        (
            *_weights(level, residence, sizes.capacity),
            Part(
                "KV cache",
                0 if level.self_draft else sizes.capacity * kv_bytes_per_token(shape, sizes.kv_type, residence),
            ),
            Part(
                KEPT,
                sizes.kept_rows * kv_bytes_per_token(shape, sizes.kv_type, residence)
                + sizes.kept_copies * shape.state_bytes(held_rows(level, sizes.rows)),
            ),
            *([Part(STATES, state_bytes(level, sizes.rows))] if shape.has_states else []),
            *([Part(HIDDEN, _hidden(level, sizes))] if sizes.hidden_width else []),
            Part("logits", sizes.logits_rows * level.logits_width * 4),
            Part("inputs", _inputs(sizes)),
            Part("scratch", (threads - 1) * scratch.unit + (0 if one_caller else scratch.of_caller)),
            Part("session", _session(level, residence)),
        )
    )


def process_footprint(
    manifest: Manifest,
    process: ProcessBytes,
    context: int,
    activations: Iterable[int],
    suffix: bool,
    store: int,
    application: int,
    constrained: bool,
    scratch: int = 0,
) -> Footprint:
    """What the levels share: libraries, tokenizer, tokens, sampling, activations, Python's objects, and with ``suffix``
    its index, the bundle's draft table and the bytes of a ``store`` of earlier texts; also those of the ``application``
    around them, and of constrained answers if there may be any.

    ``activations`` has the bytes of every level. The largest counts: levels do not run at once, and a forward keeps
    nothing. ``scratch``: what the one thread keeps that calls all levels, if there is one.
    """
    parts = [
        Part(LIBRARIES, process.modules, process.files),
        Part(SESSION, process.session),
        Part(APPLICATION, application),
        Part("tokenizer", tokenizer_bytes(manifest)),
        Part("tokens", context * 8),
        Part("sampling", _SAMPLING * manifest.target.shape.vocab_size),
        Part("activations", max(activations)),
        Part("scratch", scratch),
        Part("objects", _OBJECTS),
        constraints_part(manifest) if constrained else Part(CONSTRAINTS),
    ]
    table = manifest.files.get(DRAFT_TABLE_NAME)
    if suffix:
        indexes = 1 if table is None else 2  # the table's drafter has one of its own
        parts.append(Part("suffix index", indexes * context * SUFFIX_BYTES_PER_TOKEN))
    if suffix and table is not None:
        parts.append(Part(DRAFT_TABLE, 0, table.bytes))
    if suffix and store:
        parts.append(Part(SUFFIX_STORE, store))
    return Footprint(tuple(parts))


def process_of(footprint: Footprint) -> ProcessBytes:
    """The ``process`` that a footprint of ``process_footprint`` was made from."""
    libraries = footprint.part(LIBRARIES)
    return ProcessBytes(libraries.anonymous, footprint.part(SESSION).anonymous, libraries.hot)


def loading_bytes(process: Footprint, levels: Iterable[tuple[Level, Residence, Footprint]], manifest: Manifest) -> int:
    """The peak of anonymous bytes while loading: what is already open, and what the next part needs for a moment.

    The tokenizer is parsed before any session is opened. ONNX Runtime packs the matrices of a prepacked file once more
    to recognize them, one after the other.
    """
    held = sum(process.part(name).anonymous for name in (LIBRARIES, APPLICATION, "tokenizer"))
    parsing = _TOKENIZER_PARSE if manifest.schema >= _COMPACT_SINCE else _PUBLISHED_PARSE
    peak = held + int(_tokenizer_file_bytes(manifest) * parsing)
    held += process.part(SESSION).anonymous
    for level, residence, footprint in levels:
        held += sum(footprint.part(name).anonymous for name in ("weights", EXPERTS, "session"))
        packing = packing_bytes(level) if residence == "prepacked" else 0
        peak = max(peak, held + packing)
    return peak


def margin_bytes(anonymous: int, hot: int, constrained: bool) -> int:
    """How far the prediction of anonymous bytes may be off, and the page tables for all bytes.

    With constrained answers also what the dearest constraint takes: the prediction is that of a usual one.
    """
    margin = max(_LEAST_MARGIN, int(anonymous * _MARGIN_SHARE)) + (anonymous + hot) // _BYTES_PER_TABLE_BYTE
    return margin + (_DEAREST_CONSTRAINT if constrained else 0)


def hot_weight_bytes(level: Level, residence: Residence) -> int:
    """Bytes of weights that steps read, whether they are mapped or copied: those of experts are read now and then."""
    if residence == "native" and level.native is not None:
        return level.native.data_bytes - _table_bytes(level, residence)
    experts = expert_bytes(level, residence)  # which ONNX Runtime does not pack
    return int((level.weight_bytes - level.sparse_bytes - experts) * packed_ratio(level.quantization)) + experts


def packed_ratio(quantization: Quantization) -> float:
    """Bytes of weights as ONNX Runtime packs them, relative to the file.

    In the file a block has codes and one float32 scale, packed also a float32 sum (1.31.1, AVX2, blocks of 128: 868 MB
    of 837).
    """
    bits, block = {"int4": 4, "int8": 8}.get(quantization.weights), quantization.block_size
    if bits is None or block is None:
        return 1.0
    codes = block * bits / 8
    return (codes + 8) / (codes + 4)


def packing_bytes(level: Level) -> int:
    """Bytes that ONNX Runtime takes for a moment to recognize the head in the prepacked file.

    It packs each matrix once more: codes, and for every block a scale and a sum, from a copy of the scales (float32).
    The head is the largest (Qwen2: 120 MB for 0.5B in blocks of 32, 137 MB for 1.5B in blocks of 128).
    """
    bits, block = _bits(level.quantization), level.quantization.block_size
    around = 12 / block if block else 0
    return int(level.logits_width * level.shape.hidden_size * (bits / 8 + around))


def tokenizer_bytes(manifest: Manifest) -> int:
    """Anonymous bytes of an open tokenizer, by the number of its entries; 0 if the bundle has none."""
    if not _tokenizer_file_bytes(manifest):
        return 0
    slots = 1 << (manifest.target.vocabulary.entries * 8 // 7).bit_length()
    return slots * (_TOKENIZER_SLOT if manifest.schema >= _COMPACT_SINCE else _PUBLISHED_SLOT)


def constraints_part(manifest: Manifest) -> Part:
    """What constrained answers take: ``constraint_bytes`` and the library's pages."""
    anonymous = constraint_bytes(manifest)
    return Part(CONSTRAINTS, anonymous, _CONSTRAINT_LIBRARY if anonymous else 0)


def constraint_bytes(manifest: Manifest) -> int:
    """Anonymous bytes that constrained answers take with a usual schema; 0 if the bundle has no tokenizer for them."""
    if not _tokenizer_file_bytes(manifest):
        return 0
    return _CONSTRAINTS + _CONSTRAINT_ENTRY * manifest.target.vocabulary.entries


def _tokenizer_file_bytes(manifest: Manifest) -> int:
    entry = manifest.files.get("tokenizer.json")
    return 0 if entry is None else entry.bytes


def _weights(level: Level, residence: Residence, tokens: int) -> tuple[Part, ...]:
    """The weights; those of experts, which a step reads some of, are a part of their own."""
    if level.self_draft is not None:
        return (Part("weights"),)  # they are the target's, and are counted there
    hot, experts = hot_weight_bytes(level, residence), expert_bytes(level, residence)
    hot -= experts
    if residence == "copied":
        copied = Part("weights", anonymous=hot + level.sparse_bytes)
        return (copied, Part(EXPERTS, anonymous=experts)) if experts else (copied,)
    # The prepacked file that ONNX Runtime writes has the unpacked weights as well.
    others = _table_bytes(level, residence) + (level.weight_bytes - experts if residence == "prepacked" else 0)
    touched = _embedding_rows(level, residence, tokens) + _rotary_rows(level, tokens)
    if residence == "prepacked":
        touched += _unpacked_scales(level)
    touched = min(touched, others)
    weights = Part("weights", hot=hot + touched, cold=others - touched)
    return (weights, Part(EXPERTS, hot=experts)) if experts else (weights,)


def _table_bytes(level: Level, residence: Residence) -> int:
    """Bytes of the tables of which steps read rows. ``sparse_bytes`` are those of the portable file, whose scales are
    float32; native ones are float16.
    """
    shape, block = level.shape, level.quantization.block_size
    if residence != "native" or block is None:
        return level.sparse_bytes
    embedding = shape.vocab_size * shape.hidden_size * _bits(level.quantization) // 8
    columns = shape.layer_table or (shape.hidden_size if level.sparse_bytes >= embedding else 0)
    return level.sparse_bytes - shape.vocab_size * columns // block * 2


def _embedding_rows(level: Level, residence: Residence, tokens: int) -> int:
    """Bytes of embedding tables beside the head, also those of every layer: the pages around rows of ``tokens`` tokens.

    Native kernels read a tied embedding from the head itself. ONNX Runtime reads the exported table, and all of it
    while it looks for the head in the prepacked file.
    """
    table = level.shape.vocab_size * level.shape.hidden_size * _bits(level.quantization) // 8
    if level.sparse_bytes >= table:
        # In panels a row lies among the others of its panel.
        rows = 1 if residence != "native" else _PANEL_ROWS
        piece = _FAULT_AROUND + rows * level.sparse_bytes // level.shape.vocab_size
        # Pieces of other tokens may be the same ones.
        return int(level.sparse_bytes * (1 - (1 - min(piece / level.sparse_bytes, 1)) ** tokens))
    return table if residence == "prepacked" else 0


def _rotary_rows(level: Level, tokens: int) -> int:
    """Bytes of the rotary tables, cosines and sines (float32): the rows of ``tokens`` positions."""
    shape = level.shape
    table = shape.positions * shape.head_size * 2
    rows = min(table, tokens * shape.head_size * 2 + _FAULT_AROUND)
    return min(2 * rows, level.sparse_bytes)


def _unpacked_scales(level: Level) -> int:
    """Bytes of the scales that a prepacked file has beside the packed ones.

    ONNX Runtime 1.32 reads all of them as it opens a session, but of the codes beside them only the edges that the
    system maps around scales.
    """
    bits, block = {"int4": 4, "int8": 8}.get(level.quantization.weights), level.quantization.block_size
    if bits is None or block is None:
        return 0
    packed = level.weight_bytes - level.sparse_bytes - expert_bytes(level, "prepacked")
    return int(packed * 4 / (block * bits / 8 + 4))


def _bits(quantization: Quantization) -> int:
    return {"int4": 4, "int8": 8, "fp16": 16}.get(quantization.weights, 32)


def _inputs(sizes: LevelSizes) -> int:
    """Bytes of ids, positions, offsets and mask (int64), and of a tree's bias, float32 for every row and key."""
    rows = max(sizes.rows, sizes.prefill_chunk)
    return 3 * rows * 8 + sizes.capacity * (8 + 4) + (sizes.rows * sizes.capacity * 4 if sizes.tree else 0)


def _hidden(level: Level, sizes: LevelSizes) -> int:
    rows = max(sizes.rows, sizes.prefill_chunk)
    return hidden_bytes(level, sizes.hidden_width, sizes.hidden_rows, rows, sizes.rows)


def activation_bytes(level: Level, sizes: LevelSizes, residence: Residence, threads: int) -> int:
    """Bytes of the tensors that are alive during a forward of a level: of a chunk of a prompt, or of a step, which may
    have copies of its logits.
    """
    shape, block = level.shape.widest, level.quantization.block_size

    def alive(rows: int) -> int:
        if residence == "native":
            return native_activations(shape, rows)
        return portable_activations(shape, rows, sizes.capacity, block, threads, sizes.kv_type)

    capped = _CAPPED_LOGITS.get(level.architecture, 0) * sizes.logits_rows * level.logits_width * 4
    return max(alive(max(sizes.rows, sizes.prefill_chunk)), alive(sizes.rows) + capped)


def scratch_of(level: Level, sizes: LevelSizes, residence: Residence) -> OperatorScratch:
    """What threads keep that run the native operators of a level; nothing with those of ONNX Runtime."""
    if residence != "native":
        return OperatorScratch()
    rows = max(sizes.rows, sizes.prefill_chunk)
    return native_scratch(level.shape.widest, rows, sizes.capacity, level.quantization.block_size or 1)


def _session(level: Level, residence: Residence) -> int:
    """Bytes that ONNX Runtime keeps for the graph of a level; the target's session is the first one."""
    graph = 0 if level.role == "target" else GRAPH_BYTES
    return graph + level.shape.layers * (_LAYER_NATIVE if residence == "native" else _LAYER_PORTABLE)
