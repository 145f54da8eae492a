"""One level of a bundle: lowers its graph, writes graph and weights, checks them, and measures what its KV types cost.

Everything is written to one folder. What fails leaves files behind, for whoever made the folder to remove.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.estimate import attainable_bytes, estimate_job
from export.graph.kv_variants import needs_ranges, portable_kv_types, write_kv_graph
from export.graph.native.build import pack_native, write_native
from export.graph.recipe import LoweredGraph, float_kinds
from export.graph.sparse_tables import sparse_bytes
from export.graph.trace import lower
from export.heads.head import Head
from export.heads.tensors import open_head
from export.manifest import (
    DRAFT_VOCABULARY_NAME,
    PACKED_FILE_NAME,
    DraftHeads,
    DraftVocabulary,
    Level,
    LogitCheck,
    NativeForm,
    PocketspecError,
    Quantization,
    refuse_links,
)
from export.quantization.calibration import WeightImportance, read_tokens
from export.quantization.halves import HalvedCodes
from export.quantization.quantize import QUANTIZERS
from export.report import LevelTiming, Reporter
from export.request import ExportRequest
from export.sources.checkpoint_mapping import LoadedTensors
from export.sources.compact_tokenizer import write_compact_tokenizer
from export.sources.cut_head import CutHead, cut_head
from export.sources.draft_vocabulary import ChosenTokens
from export.sources.opened import open_weights
from export.sources.parallel_drafts import left_out, parallel_drafts
from export.sources.tensor_source import TensorSource
from export.tasks import DEFAULT_METHOD, LevelTask
from export.validation.check import Passage, check_level, read_passage
from export.validation.check_head import check_head
from export.validation.isolated import run_lean
from export.validation.kv_quality import measure_effects
from export.validation.kv_ranges import measure_text_ranges
from export.validation.limits import LEAN_TOKENS
from export.validation.peak_memory import PeakWatch
from export.writer.genai_config import FILE_NAME as GENAI_CONFIG
from export.writer.genai_config import TYPES as GENAI_TYPES
from export.writer.genai_config import make_genai_config, write_genai_config
from export.writer.weights import WeightReport, write_weights

GRAPH = "model.onnx"
_TEXT_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_TEMPLATES = "additional_chat_templates"


def export_level(task: LevelTask, request: ExportRequest, folder: Path, reporter: Reporter) -> Level:
    """Exports the level of ``task`` to ``folder``, which must be empty of its files; returns its entry of the manifest.

    PocketspecError where the model cannot be exported, or its graph would be wrong.
    """
    with PeakWatch() as peak:
        task, source = _opened(task)  # first: a damaged checkpoint is refused at once
        return _LevelExport(task, request, folder, reporter).run(source, peak)


def _opened(task: LevelTask) -> tuple[LevelTask, TensorSource]:
    """The task with its configuration as transformers reads it, and the tensors."""
    if task.head is None:
        config, source = open_weights(task.origin, task.model.config)
        if task.logit_tokens is not None:
            config, source = cut_head(config, source, task.logit_tokens.ids)
        return replace(task, model=replace(task.model, config=config)), source
    assert task.target is not None
    chosen = task.logit_tokens
    opened = open_head(task.head, task.origin, task.target, None if chosen is None else chosen.ids)
    if chosen is None and opened.tokens is not None:
        chosen = ChosenTokens(opened.tokens, DraftVocabulary(len(opened.tokens)), "as its checkpoint says")
    model = replace(task.model, config=opened.head.config)
    return replace(task, head=opened.head, model=model, logit_tokens=chosen), opened.source


@dataclass(frozen=True)
class _LevelExport:
    """The export of one level, as ``export_level`` was asked for it."""

    task: LevelTask
    request: ExportRequest
    folder: Path
    reporter: Reporter

    @property
    def _known(self) -> tuple[int, ...] | None:
        """The tokens that logits are of, if they are not of all."""
        return None if self.task.logit_tokens is None else self.task.logit_tokens.ids

    def run(self, source: TensorSource, peak: PeakWatch) -> Level:
        """All steps in order. ``peak`` watches the memory of all of them."""
        task, job, folder = self.task, self.task.job, self.folder
        started = time.monotonic()
        self.reporter.stage(job.name, "building the graph")
        lowered = lower(task.model.config, task.graph_options, task.taps, task.head)
        lowered_at = time.monotonic()
        written = self._write(lowered, source)
        native = self._write_native()
        written_at, export_peak = time.monotonic(), peak.bytes
        self.reporter.stage(job.name, "checking against the reference")
        passage = self._read_passage()
        check = self._check(lowered, source, passage)
        checked_at = time.monotonic()
        self.reporter.stage(job.name, "measuring KV types")
        level = Level(
            name=job.name,
            role=job.role,
            folder=job.folder,
            architecture=task.model.config.model_type if task.head is None else task.head.architecture,
            source=task.model.provenance,
            shape=task.shape,
            vocabulary=task.vocabulary,
            quantization=Quantization(
                job.weights, task.block_size, task.method, written.error, float_kinds(lowered.recipes)
            ),
            graphs={"fp32": GRAPH, **self._write_kv_graphs()},
            weight_bytes=written.bytes,
            tree=not task.shape.has_states,
            check=check,
            native=native,
            sparse_bytes=sparse_bytes(folder / GRAPH),
            parallel=parallel_drafts(task.model.config) if job.role == "drafter" else None,
            taps=task.taps,
            reads=() if task.head is None else task.head.reads,
            draft_vocabulary=None if task.logit_tokens is None else task.logit_tokens.described,
            heads=_draft_heads(task.head),
        )
        level = self._measure_effects(level, passage)
        seconds = lowered_at - started, written_at - lowered_at, checked_at - written_at, time.monotonic() - checked_at
        self.reporter.timing(job.name, LevelTiming(*seconds, export_peak, peak.bytes))
        return level

    def _check(self, lowered: LoweredGraph, source: TensorSource, passage: Passage) -> LogitCheck | None:
        """Compares the written graph with the reference. A head reads no text by itself: nothing else is measured."""
        graph, task = self.folder / GRAPH, self.task
        if task.head is None:
            return check_level(graph, lowered, task.model.config, source, passage, self._known)
        check_head(graph, lowered, task.head, source, passage.tokens)
        return None

    def _write(self, lowered: LoweredGraph, source: TensorSource) -> WeightReport:
        """The graph, its weights and the files beside it."""
        task, job = self.task, self.task.job
        total = estimate_job(job, task.shape, task.parameters, task.block_size).file_bytes
        self.reporter.stage(job.name, "writing weights", total)
        quantizer, calibration = QUANTIZERS[task.method or DEFAULT_METHOD], self._calibration(source)
        if self._in_planes:
            quantizer = HalvedCodes(quantizer)
        advance = self.reporter.advance
        written = write_weights(lowered, source, self.folder, quantizer, report=advance, importance=calibration)
        self._note_tensors(written.unused, "are not in the graph")
        if isinstance(source, CutHead):
            source = source.whole
        if isinstance(source, LoadedTensors):
            self._note_tensors(source.unexpected, "belong to no part of its decoder")
        _write_texts(task, self.folder)
        self._write_logit_tokens()
        if job.role == "drafter" and task.head is None and (lost := left_out(task.model.config)) is not None:
            self.reporter.note(f"{job.name}: {lost}")
        if job.role == "target":
            for note in missing_files(task, self.folder, self.request.output):
                self.reporter.note(note)
        return written

    def _write_logit_tokens(self) -> None:
        """Which tokens a cut head has, if this one is cut."""
        if (kept := self.task.logit_tokens) is not None:
            (self.folder / DRAFT_VOCABULARY_NAME).write_bytes(np.array(kept.ids, "<i4").tobytes())
            self.reporter.note(f"{self.task.job.name}: {kept.summary}")

    def _calibration(self, source: TensorSource) -> WeightImportance | None:
        task, text = self.task, self.request.calibration_text
        if text is None or task.method is None or task.model.folder is None:
            return None
        tokens = read_tokens(task.model.folder / "tokenizer.json", text, task.shape.positions)
        return WeightImportance(task.model.config, source, tokens, task.method)

    def _note_tensors(self, tensors: Sequence[str], fate: str) -> None:
        """Nothing of a checkpoint is left out in silence."""
        if tensors:
            shown = ", ".join(tensors[:3]) + (", ..." if len(tensors) > 3 else "")
            self.reporter.note(f"{self.task.job.name}: {len(tensors)} tensors of the checkpoint {fate}: {shown}")

    def _write_native(self) -> NativeForm | None:
        """The graphs for our own kernels where they can run the level, and packed weights if those are wanted."""
        planes = 2 if self._in_planes else 1
        if self.request.kernels == "portable" or (native := write_native(self.folder, GRAPH, planes)) is None:
            return None
        if self.request.kernels == "native":
            self.reporter.stage(self.task.job.name, "packing weights", native.data_bytes)
            pack_native(self.folder, GRAPH, self.reporter.advance)
        return native

    @property
    def _in_planes(self) -> bool:
        """Whether the halves of the codes lie apart, for a drafter that reads one of them."""
        return self.request.int4_drafter and self.task.job.role == "target"

    def _write_kv_graphs(self) -> dict[str, str]:
        """The portable graph for every other KV type; the name of the file for each."""
        task, graph = self.task, self.folder / GRAPH
        kinds = portable_kv_types(task.job.role, task.shape)
        ranges = measure_text_ranges(graph, task.shape, task.model.folder) if needs_ranges(kinds) else {}
        return {kind: write_kv_graph(self.folder, GRAPH, kind, ranges) for kind in kinds}

    def _read_passage(self) -> Passage:
        """What the level is checked on: the beginning of a text alone where memory is short."""
        task = self.task
        passage = read_passage(task.model.folder, task.shape, self.request.check_text, known=self._known)
        needed, found = (
            estimate_job(task.job, task.shape, task.parameters, task.block_size).peak_bytes,
            attainable_bytes(),
        )
        if needed <= found or len(passage.tokens) <= LEAN_TOKENS:
            return passage
        self.reporter.note(
            f"{task.job.name}: the check runs over {LEAN_TOKENS} tokens alone, since {found / 1e6:,.0f} MB of memory"
            f" can be had and {needed / 1e6:,.0f} MB are wanted"
        )
        return replace(passage, tokens=passage.tokens[:LEAN_TOKENS])

    def _measure_effects(self, level: Level, passage: Passage) -> Level:
        """``level`` with the effects of its KV types. Packed weights stay only where they are wanted."""
        if level.reads:
            return replace(level, left_out={"kv_effects": "it reads hidden rows of the target beside tokens"})
        try:
            effects = run_lean(level.weight_bytes, measure_effects, self.folder, GRAPH, level, passage.tokens)
            return replace(level, kv_effects=effects)
        except PocketspecError as error:
            self.reporter.note(f"{level.name}: effects of its KV types are not known: {error}")
            return replace(level, left_out={"kv_effects": str(error)})
        finally:
            if self.request.kernels != "native":
                (self.folder / PACKED_FILE_NAME).unlink(missing_ok=True)


def _draft_heads(head: Head | None) -> DraftHeads | None:
    """What a manifest says of a stack of heads; None for other levels."""
    if head is None or head.stack is None:
        return None
    return DraftHeads(head.stack, head.own_width, head.together)


def _without_tokenizer(task: LevelTask, output: Path) -> str:
    """What a bundle can do that gets no tokenizer, and what to do for texts."""
    where, model = task.model.folder, task.model.provenance.id
    remedy = f"for texts, save one with transformers: AutoTokenizer.from_pretrained({str(where or model)!r})"
    place = f"in {where} and export again" if where else f"in {output} when it is complete"
    return (
        f"{task.job.name}: no tokenizer.json in {where or 'a known shape'}, so the bundle takes token ids only (bench"
        f" draws them itself); {remedy}.save_pretrained(FOLDER) {place}"
    )


def missing_files(task: LevelTask, folder: Path, output: Path) -> Iterator[str]:
    """Which files are not beside the target's graph in ``folder``, and why, a line each."""
    if not (folder / "tokenizer.json").is_file():
        yield _without_tokenizer(task, output)
    kind = task.model.config.model_type
    if kind not in GENAI_TYPES:
        yield f"{task.job.name}: no {GENAI_CONFIG}, since onnxruntime-genai has no type for {kind}"


def _write_texts(task: LevelTask, folder: Path) -> None:
    """The files beside a graph; the tokenizer and genai's config stand at the root alone."""
    task.model.config.to_json_file(folder / "config.json", use_diff=False)
    names = _TEXT_FILES if task.job.role == "target" else _TEXT_FILES[:1]
    if task.model.folder is not None:
        refuse_links(task.model.folder, names)
    for name in names:
        if task.model.folder is not None and (path := task.model.folder / name).is_file():
            if name == "tokenizer.json":
                write_compact_tokenizer(path, folder / name, task.shape.vocab_size)
            else:
                shutil.copyfile(path, folder / name)
    if task.job.role == "target":
        _copy_templates(task.model.folder, folder)
        write_genai_config(folder, make_genai_config(task.model.config, task.shape, task.vocabulary, GRAPH))


def _copy_templates(checkpoint: Path | None, folder: Path) -> None:
    """The chat templates that go by a name, such as "tool_use"."""
    if checkpoint is None or not (checkpoint / _TEMPLATES).is_dir():
        return
    (folder / _TEMPLATES).mkdir(exist_ok=True)
    for path in sorted((checkpoint / _TEMPLATES).glob("*.jinja")):
        shutil.copyfile(path, folder / _TEMPLATES / path.name)
