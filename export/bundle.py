"""From a request to a bundle: resolve, plan, then lower, write and check one level after another, publish at the end.

Levels are finished in a workspace beside the output and survive an interruption; what is not finished is removed. The
output appears at once, by renaming.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from export.estimate import attainable_bytes, estimate_job, require_memory
from export.graph.kv_variants import needs_ranges, portable_kv_types, write_kv_graph
from export.graph.native.build import pack_native, write_native
from export.graph.recipe import LoweredGraph
from export.graph.sparse_tables import sparse_bytes
from export.graph.trace import lower
from export.manifest import (
    PACKED_FILE_NAME,
    Level,
    Manifest,
    NativeForm,
    PocketspecError,
    Quantization,
    read_manifest,
    refuse_links,
    verify_files,
)
from export.quantization.calibration import Calibration, read_tokens
from export.quantization.quantize import QUANTIZERS
from export.report import PlannedLevel, Reporter, SilentReporter, Timing
from export.request import ExportRequest, make_jobs
from export.sources.checkpoint_mapping import LoadedTensors
from export.sources.compact_tokenizer import write_compact_tokenizer
from export.sources.opened import open_weights
from export.sources.tensor_source import TensorSource
from export.tasks import DEFAULT_METHOD, LevelTask, installed_versions, make_tasks, request_key
from export.validation.agreement import with_agreement
from export.validation.check import Passage, check_level, read_passage
from export.validation.isolated import run_lean
from export.validation.kv_quality import measure_effects
from export.validation.kv_ranges import measure_text_ranges
from export.validation.limits import LEAN_TOKENS
from export.validation.peak_memory import PeakWatch
from export.writer.genai_config import make_genai_config, write_genai_config
from export.writer.lock import locked
from export.writer.weights import WeightReport, write_weights
from export.writer.workspace import Workspace

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


class BundleError(PocketspecError, OSError):
    """An output folder that is taken, or a disk that is full."""


def export_bundle(request: ExportRequest, reporter: Reporter | None = None) -> Path:
    """Exports everything ``request`` asks for; returns the folder of the bundle.

    A complete bundle of the same request is left as it is; any other existing output is refused with BundleError. An
    interruption removes the level at hand and keeps those that are complete, from which a second run goes on. Of two
    exports to one output at once, one waits for the other.
    """
    reporter = reporter or SilentReporter()
    tasks = make_tasks(request, make_jobs(request))
    with locked(request.output, reporter.note):
        return _export_tasks(request, tasks, reporter)


def _export_tasks(request: ExportRequest, tasks: Sequence[LevelTask], reporter: Reporter) -> Path:
    key = request_key(request, tasks)
    if _is_done(request.output, key):
        reporter.result(request.output, read_manifest(request.output), done_before=True)
        return request.output
    workspace = Workspace(request.output, key)
    _plan(request, tasks, workspace, reporter)
    levels = tuple(_finish_level(task, request, workspace, reporter) for task in tasks)
    levels = _measure_agreement(levels, workspace.folder, reporter)
    versions = {**installed_versions(), "request": key}
    manifest = Manifest(tasks[0].job.name, levels, workspace.files(), versions)
    workspace.publish(manifest)
    reporter.result(request.output, manifest, done_before=False)
    return request.output


def _plan(request: ExportRequest, tasks: Sequence[LevelTask], workspace: Workspace, reporter: Reporter) -> None:
    """Tells what will be done, and refuses a disk that is too small for it."""
    planned = []
    for task in tasks:
        estimate = estimate_job(task.job, task.shape, task.block_size, packed=request.kernels == "native")
        finished, job = workspace.finished(task.job.folder) is not None, task.job
        source = task.model.provenance.id
        numbers = {key: value for key, value in asdict(estimate).items() if key != "lean_bytes"}
        planned.append(PlannedLevel(job.name, job.role, source, job.weights, **numbers, finished=finished))
        if not finished:
            require_memory(job.name, estimate.lean_bytes)
    output, free = request.output, _free_bytes(request.output)
    reporter.plan(output, planned, free)
    for path in workspace.leftovers():
        reporter.note(f"{path} is of an unfinished export with other settings; delete it if that is not wanted")
    needed = sum(level.file_bytes for level in planned if not level.finished)
    if needed > free:
        raise BundleError(
            f"{output} needs about {needed:,} bytes and its disk has {free:,} free; free space or give another --output"
        )


def _finish_level(task: LevelTask, request: ExportRequest, workspace: Workspace, reporter: Reporter) -> Level:
    """The level of a task: from an earlier run, or exported now. Nothing half-written stays behind."""
    if (level := workspace.finished(task.job.folder)) is not None:
        return level
    try:
        folder = workspace.begin(task.job.folder)
        level = _export_level(task, request, folder, reporter)
        workspace.finish(level)
    except BaseException as error:
        workspace.discard(task.job.folder)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, PocketspecError):
            raise BundleError(
                f"the disk of {request.output.parent} is full, writing {task.job.name}; free space and run this again"
            ) from error
        raise
    return level


def _export_level(task: LevelTask, request: ExportRequest, folder: Path, reporter: Reporter) -> Level:
    """Lowers, writes and checks one level in ``folder``."""
    with PeakWatch() as peak:
        return _export_watched(task, request, folder, reporter, peak)


def _export_watched(
    task: LevelTask, request: ExportRequest, folder: Path, reporter: Reporter, peak: PeakWatch
) -> Level:
    job = task.job
    config, source = open_weights(task.origin, task.model.config)  # first: a damaged checkpoint is refused at once
    model = replace(task.model, config=config)
    task = replace(task, model=model)
    started = time.monotonic()
    reporter.stage(job.name, "building the graph")
    lowered = lower(model.config, task.graph_options)
    lowered_at = time.monotonic()
    written = _write(task, request, lowered, source, folder, reporter)
    native = _write_native(task, request, folder, reporter)
    written_at, export_peak = time.monotonic(), peak.bytes
    reporter.stage(job.name, "checking against the reference")
    passage = _read_passage(task, request, reporter)
    check = check_level(folder / GRAPH, lowered, model.config, source, passage)
    checked_at = time.monotonic()
    reporter.stage(job.name, "measuring KV types")
    level = Level(
        name=job.name,
        role=job.role,
        folder=job.folder,
        architecture=model.config.model_type,
        source=model.provenance,
        shape=task.shape,
        vocabulary=task.vocabulary,
        quantization=Quantization(job.weights, task.block_size, task.method, written.error),
        graphs={"fp32": GRAPH, **_write_kv_graphs(task, folder)},
        weight_bytes=written.bytes,
        check=check,
        native=native,
        sparse_bytes=sparse_bytes(folder / GRAPH),
    )
    level = _measure_effects(level, request, folder, passage, reporter)
    seconds = (lowered_at - started, written_at - lowered_at, checked_at - written_at, time.monotonic() - checked_at)
    reporter.timing(job.name, Timing(*seconds, export_peak, peak.bytes))
    return level


def _read_passage(task: LevelTask, request: ExportRequest, reporter: Reporter) -> Passage:
    """What the level is checked on: of a text little, where memory is short."""
    passage = read_passage(task.model.folder, task.shape, request.check_text)
    needed, found = estimate_job(task.job, task.shape, task.block_size).peak_bytes, attainable_bytes()
    if needed <= found or len(passage.tokens) <= LEAN_TOKENS:
        return passage
    reporter.note(
        f"{task.job.name}: the check runs over {LEAN_TOKENS} tokens alone, since {found / 1e6:,.0f} MB of memory can be"
        f" had and {needed / 1e6:,.0f} MB are wanted"
    )
    return replace(passage, tokens=passage.tokens[:LEAN_TOKENS])


def _write(
    task: LevelTask,
    request: ExportRequest,
    lowered: LoweredGraph,
    source: TensorSource,
    folder: Path,
    reporter: Reporter,
) -> WeightReport:
    """The graph, its weights and the files beside it."""
    total = estimate_job(task.job, task.shape, task.block_size).file_bytes
    reporter.stage(task.job.name, "writing weights", total)
    quantizer = QUANTIZERS[task.method or DEFAULT_METHOD]
    calibration = _calibration(task, request, source)
    written = write_weights(lowered, source, folder, quantizer, report=reporter.advance, importance=calibration)
    _note_tensors(task.job.name, written.unused, "are not in the graph", reporter)
    if isinstance(source, LoadedTensors):
        _note_tensors(task.job.name, source.unexpected, "belong to no part of the model", reporter)
    _write_texts(task, folder)
    if task.job.role == "target" and not (folder / "tokenizer.json").is_file():
        reporter.note(_without_tokenizer(task, request.output))
    return written


def _without_tokenizer(task: LevelTask, output: Path) -> str:
    """What a bundle can do that gets no tokenizer, and what to do for texts."""
    where, model = task.model.folder, task.model.provenance.id
    remedy = f"for texts, save one with transformers: AutoTokenizer.from_pretrained({str(where or model)!r})"
    place = f"in {where} and export again" if where else f"in {output} when it is complete"
    return (
        f"{task.job.name}: no tokenizer.json in {where or 'a known shape'}, so the bundle takes token ids only (bench"
        f" draws them itself); {remedy}.save_pretrained(FOLDER) {place}"
    )


def _note_tensors(name: str, tensors: Sequence[str], fate: str, reporter: Reporter) -> None:
    """Nothing of a checkpoint is left out in silence."""
    if tensors:
        shown = ", ".join(tensors[:3]) + (", ..." if len(tensors) > 3 else "")
        reporter.note(f"{name}: {len(tensors)} tensors of the checkpoint {fate}: {shown}")


def _write_native(task: LevelTask, request: ExportRequest, folder: Path, reporter: Reporter) -> NativeForm | None:
    """The graphs for our own kernels where they can run the level, and their packed weights if those are wanted."""
    if request.kernels == "portable" or (native := write_native(folder, GRAPH)) is None:
        return None
    if request.kernels == "native":
        reporter.stage(task.job.name, "packing weights", native.data_bytes)
        pack_native(folder, GRAPH, reporter.advance)
    return native


def _write_kv_graphs(task: LevelTask, folder: Path) -> dict[str, str]:
    """The portable graph for every other KV type; the name of the file for each."""
    kinds = portable_kv_types(task.job.role, task.shape)
    ranges = measure_text_ranges(folder / GRAPH, task.shape, task.model.folder) if needs_ranges(kinds) else {}
    return {kind: write_kv_graph(folder, GRAPH, kind, ranges) for kind in kinds}


def _calibration(task: LevelTask, request: ExportRequest, source: TensorSource) -> Calibration | None:
    if request.calibration_text is None or task.method is None or task.model.folder is None:
        return None
    tokens = read_tokens(task.model.folder / "tokenizer.json", request.calibration_text, task.shape.positions)
    return Calibration(task.model.config, source, tokens, task.method)


def _measure_effects(level: Level, request: ExportRequest, folder: Path, passage: Passage, reporter: Reporter) -> Level:
    """``level`` with the effects of its KV types. Packed weights stay only where they are wanted."""
    try:
        effects = run_lean(level.weight_bytes, measure_effects, folder, GRAPH, level, passage.tokens)
        return replace(level, kv_effects=effects)
    except PocketspecError as error:
        reporter.note(f"{level.name}: effects of its KV types are not known: {error}")
        return replace(level, left_out={"kv_effects": str(error)})
    finally:
        if request.kernels != "native":
            (folder / PACKED_FILE_NAME).unlink(missing_ok=True)


def _measure_agreement(levels: tuple[Level, ...], bundle: Path, reporter: Reporter) -> tuple[Level, ...]:
    """``levels`` with what partners have in common with the target, as they were where it cannot be measured."""
    target, *partners = levels
    if not partners:
        return levels
    reporter.stage(partners[-1].name, "comparing with the target's answers")
    try:
        return run_lean(max(level.weight_bytes for level in levels), with_agreement, bundle, GRAPH, levels)
    except PocketspecError as error:
        reporter.note(f"how often drafters agree with {target.name} is not known: {error}")
        left_out = {"agreement": str(error)}
        return (target, *(replace(level, left_out={**level.left_out, **left_out}) for level in partners))


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
    """The chat templates that go by a name, "tool_use" say."""
    if checkpoint is None or not (checkpoint / _TEMPLATES).is_dir():
        return
    (folder / _TEMPLATES).mkdir(exist_ok=True)
    for path in sorted((checkpoint / _TEMPLATES).glob("*.jinja")):
        shutil.copyfile(path, folder / _TEMPLATES / path.name)


def _is_done(output: Path, key: str) -> bool:
    """Whether ``output`` is this very bundle, complete. Raises BundleError if it is anything else but empty."""
    if not os.path.lexists(output) or (os.path.isdir(output) and not output.is_symlink() and not any(output.iterdir())):
        return False
    if not os.path.exists(output):
        raise BundleError(f"the output {output} is a link that leads nowhere; give another --output or delete it")
    try:
        manifest = read_manifest(output)
        if manifest.versions.get("request") == key:
            verify_files(output, manifest)
            return True
        reason = "holds a bundle of another request"
    except PocketspecError as error:
        reason = f"exists and is no complete bundle ({error})"
    raise BundleError(f"the output {output} {reason}; give another --output or delete it")


def _free_bytes(output: Path) -> int:
    place = next(parent for parent in output.absolute().parents if parent.exists())
    return shutil.disk_usage(place).free
