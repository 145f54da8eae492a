"""From a request to a bundle: resolve, plan, then lower, write and check one level after another, publish at the end.

Levels are finished in a workspace beside the output and survive an interruption; what is not finished is removed. The
output appears at once, by renaming.
"""

from __future__ import annotations

import errno
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.check import check_level, read_passage
from export.estimate import estimate_job
from export.genai import make_genai_config, write_genai_config
from export.graph import GraphOptions, lower, shape_of
from export.manifest import (
    Level,
    Manifest,
    PocketspecError,
    Quantization,
    Shape,
    Vocabulary,
    read_manifest,
    verify_files,
)
from export.quantize import QUANTIZERS
from export.report import PlannedLevel, Reporter, SilentReporter, Timing
from export.request import BITS, ExportRequest, Job, RequestError, make_jobs
from export.sources import Model, describe_model, open_weights
from export.vocabulary import check_pair, read_vocabulary
from export.weights import write_weights
from export.workspace import Workspace

GRAPH = "model.onnx"
DEFAULT_METHOD = "search"
_TEXT_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_PACKAGES = ("pocketspec", "torch", "transformers", "onnxruntime", "onnx-ir")


class BundleError(PocketspecError, OSError):
    """An output folder that is taken, or a disk that is full."""


@dataclass(frozen=True)
class LevelTask:
    """A level with everything that is known before its weights are read."""

    job: Job
    model: Model
    shape: Shape
    vocabulary: Vocabulary
    block_size: int | None
    method: str | None


def export_bundle(request: ExportRequest, reporter: Reporter | None = None) -> Path:
    """Exports everything ``request`` asks for; returns the folder of the bundle.

    A complete bundle of the same request is left as it is; any other existing output is refused with BundleError. An
    interruption removes the level at hand and keeps those that are complete, from which a second run goes on.
    """
    reporter = reporter or SilentReporter()
    jobs = make_jobs(request)
    tasks = make_tasks(request, jobs)
    key = _key(request, tasks)
    if _is_done(request.output, key):
        reporter.result(request.output, read_manifest(request.output), done_before=True)
        return request.output
    workspace = Workspace(request.output, key)
    planned = [_planned(task, workspace) for task in tasks]
    free = _free_bytes(request.output)
    reporter.plan(request.output, planned, free)
    _check_disk(request.output, planned, free)
    levels = [_finish_level(task, request, workspace, reporter) for task in tasks]
    manifest = Manifest(tasks[0].job.name, tuple(levels), workspace.files(), {**_versions(), "request": key})
    workspace.publish(manifest)
    reporter.result(request.output, manifest, done_before=False)
    return request.output


def make_tasks(request: ExportRequest, jobs: Sequence[Job]) -> list[LevelTask]:
    """What is known of each level: no weights are read. Refuses partners whose vocabulary is not the target's."""
    tasks: list[LevelTask] = []
    for job in jobs:
        model = describe_model(job, request)
        shape = shape_of(model.config, request.positions)
        target = tasks[0].model if tasks else model
        if model.folder is not None and target.folder is not None and model is not target:
            check_pair(target.folder, model.folder)
        vocabulary = _vocabulary(model, tasks[0].vocabulary if tasks else None)
        blocks = BITS[job.weights] <= 8
        size = (request.block_size or _default_block_size(shape)) if blocks else None
        tasks.append(LevelTask(job, model, shape, vocabulary, size, _method(request) if blocks else None))
    return tasks


def _method(request: ExportRequest) -> str:
    method = request.method or DEFAULT_METHOD
    if method not in QUANTIZERS:
        raise RequestError(f"--quant-method {method!r} is unknown; one of {', '.join(QUANTIZERS)}")
    return method


def _default_block_size(shape: Shape) -> int:
    """The largest block, up to 128, that divides every width: large blocks make the fastest rows on CPUs."""
    widths = (shape.hidden_size, shape.mlp_size, shape.heads * shape.head_size)
    return next((size for size in (128, 64) if not any(width % size for width in widths)), 32)


def _vocabulary(model: Model, target: Vocabulary | None) -> Vocabulary:
    """The model's own vocabulary; a shape without a tokenizer speaks its target's, or counts its rows."""
    if model.folder is not None and (model.folder / "tokenizer.json").is_file():
        return read_vocabulary(model.folder)
    if target is not None:
        return target
    eos = model.config.eos_token_id
    ends = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    return Vocabulary(model.config.vocab_size, "", ends, model.config.bos_token_id)


def _finish_level(task: LevelTask, request: ExportRequest, workspace: Workspace, reporter: Reporter) -> Level:
    """The level of a task: from an earlier run, or exported now. Nothing half-written stays behind."""
    if (level := workspace.finished(task.job.folder)) is not None:
        return level
    folder = workspace.begin(task.job.folder)
    try:
        level = _export_level(task, request, folder, reporter)
        workspace.finish(level)
    except BaseException as error:
        workspace.discard(task.job.folder)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise BundleError(
                f"the disk of {request.output.parent} is full, writing {task.job.name}; free space and run this again"
            ) from error
        raise
    return level


def _export_level(task: LevelTask, request: ExportRequest, folder: Path, reporter: Reporter) -> Level:
    job, model, started = task.job, task.model, time.monotonic()
    reporter.stage(job.name, "building the graph")
    options = GraphOptions(job.weights, task.block_size or 32, positions=request.positions)
    lowered = lower(model.config, options)
    source = open_weights(job, request, model)
    lowered_at = time.monotonic()
    reporter.stage(job.name, "writing weights", estimate_job(job, task.shape, task.block_size).file_bytes)
    quantizer = QUANTIZERS[task.method or DEFAULT_METHOD]
    written = write_weights(lowered, source, folder, quantizer, report=reporter.advance)
    _write_texts(task, folder)
    written_at, peak = time.monotonic(), peak_bytes()
    reporter.stage(job.name, "checking against the reference")
    passage = read_passage(model.folder, task.shape, request.check_text)
    check = check_level(folder / GRAPH, lowered, model.config, source, task.shape, passage)
    seconds = (lowered_at - started, written_at - lowered_at, time.monotonic() - written_at)
    reporter.timing(job.name, Timing(*seconds, peak, peak_bytes()))
    return Level(
        name=job.name,
        role=job.role,
        folder=job.folder,
        architecture=model.config.model_type,
        source=model.provenance,
        shape=task.shape,
        vocabulary=task.vocabulary,
        quantization=Quantization(job.weights, task.block_size, task.method, written.error if task.method else None),
        graphs={"fp32": GRAPH},
        weight_bytes=written.bytes,
        check=check,
    )


def _write_texts(task: LevelTask, folder: Path) -> None:
    """The files beside a graph; the tokenizer and genai's config stand at the root alone."""
    task.model.config.to_json_file(folder / "config.json", use_diff=False)
    names = _TEXT_FILES if task.job.role == "target" else _TEXT_FILES[:1]
    for name in names:
        if task.model.folder is not None and (path := task.model.folder / name).is_file():
            shutil.copyfile(path, folder / name)
    if task.job.role == "target":
        write_genai_config(folder, make_genai_config(task.model.config, task.shape, task.vocabulary, GRAPH))


def _key(request: ExportRequest, tasks: Sequence[LevelTask]) -> str:
    """A hash of everything that decides what the bundle will hold."""
    asked: dict[str, Any] = {**asdict(request), "output": None, "cache_dir": None, "versions": _versions()}
    for name in ("check_text", "calibration_text"):
        path = getattr(request, name)
        asked[name] = path and hashlib.sha256(path.read_bytes()).hexdigest()
    asked["levels"] = [(task.job, task.model.provenance, _fingerprint(task.model.folder)) for task in tasks]
    return hashlib.sha256(json.dumps(asked, default=str, sort_keys=True).encode()).hexdigest()


def _fingerprint(folder: Path | None) -> list[tuple[str, int, int]]:
    """Name, size and time of the files of a checkpoint, so that changed weights are another request."""
    if folder is None:
        return []
    paths = sorted(path for pattern in ("*.json", "*.safetensors") for path in folder.glob(pattern))
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _is_done(output: Path, key: str) -> bool:
    """Whether ``output`` is this very bundle, complete. Raises BundleError if it is anything else but empty."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    try:
        manifest = read_manifest(output)
        if manifest.versions.get("request") == key:
            verify_files(output, manifest)
            return True
        reason = "holds a bundle of another request"
    except PocketspecError as error:
        reason = f"exists and is no complete bundle ({error})"
    raise BundleError(f"the output {output} {reason}; give another --output or delete it")


def _planned(task: LevelTask, workspace: Workspace) -> PlannedLevel:
    job, estimate = task.job, estimate_job(task.job, task.shape, task.block_size)
    finished = workspace.finished(job.folder) is not None
    return PlannedLevel(
        job.name, job.role, task.model.provenance.id, job.weights, **asdict(estimate), finished=finished
    )


def _check_disk(output: Path, planned: Sequence[PlannedLevel], free: int) -> None:
    needed = sum(level.file_bytes for level in planned if not level.finished)
    if needed > free:
        raise BundleError(
            f"{output} needs about {needed:,} bytes and its disk has {free:,} free; free space or give another --output"
        )


def _free_bytes(output: Path) -> int:
    place = next(parent for parent in output.absolute().parents if parent.exists())
    return shutil.disk_usage(place).free


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def peak_bytes() -> int:
    """The most memory this process has held so far, resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
