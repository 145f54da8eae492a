"""From a request to a bundle: resolves and plans it, exports one level after another, and publishes the result.

Levels grow in a workspace beside the output. Finished ones survive an interruption, the unfinished one is removed. The
output appears at once, by renaming.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from export.bundle_files import verify_files
from export.estimate import estimate_job, require_memory
from export.level import GRAPH, export_level
from export.manifest import DRAFT_TABLE_NAME, Level, Manifest, PocketspecError, read_manifest
from export.report import PlannedLevel, Reporter, SilentReporter
from export.request import ExportRequest, make_jobs
from export.sources.draft_table import count_table
from export.tasks import LevelTask, installed_versions, make_tasks, request_key
from export.validation.agreement import with_agreement
from export.validation.isolated import run_lean
from export.writer.lock import locked
from export.writer.self_draft import int4_drafter
from export.writer.workspace import Workspace


class BundleError(PocketspecError, OSError):
    """An output folder that is taken, or a disk that is full."""


def export_bundle(request: ExportRequest, reporter: Reporter | None = None) -> Path:
    """Exports everything ``request`` asks for; returns the folder of the bundle.

    A complete bundle of the same request is left as it is; any other existing output is refused with BundleError. An
    interruption keeps the finished levels, and the same call continues from them. If two exports write to one output,
    one waits for the other.
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
    table = _draft_table(request, tasks[0], reporter)  # first, since a text that is none ends the export
    levels = tuple(_finish_level(task, request, workspace, reporter) for task in tasks)
    if request.int4_drafter:
        levels += (int4_drafter(levels[0], workspace.folder),)
    levels = _measure_agreement(levels, workspace.folder, reporter)
    if table is not None:
        (workspace.folder / DRAFT_TABLE_NAME).write_bytes(table)
    versions = {**installed_versions(), "request": key}
    manifest = Manifest(tasks[0].job.name, levels, workspace.files(), versions)
    workspace.publish(manifest)
    reporter.result(request.output, manifest, done_before=False)
    return request.output


def _draft_table(request: ExportRequest, target: LevelTask, reporter: Reporter) -> bytes | None:
    """The table of what follows what in the request's texts; None if it has none."""
    if not request.table_texts:
        return None
    reporter.stage(target.job.name, "counting what follows what in texts")
    return count_table(request.table_texts, target.model.folder, target.shape.vocab_size)


def _plan(request: ExportRequest, tasks: Sequence[LevelTask], workspace: Workspace, reporter: Reporter) -> None:
    """Reports the plan; BundleError if the disk is too small, TooLittleMemoryError if memory is."""
    planned = []
    for task in tasks:
        estimate = estimate_job(
            task.job, task.shape, task.parameters, task.block_size, packed=request.kernels == "native"
        )
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
    """The level of a task, from an earlier run or exported now. If it fails, nothing half-written stays behind."""
    if (level := workspace.finished(task.job.folder)) is not None:
        return level
    try:
        folder = workspace.begin(task.job.folder)
        level = export_level(task, request, folder, reporter)
        workspace.finish(level)
    except BaseException as error:
        workspace.discard(task.job.folder)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, PocketspecError):
            raise BundleError(
                f"the disk of {request.output.parent} is full, writing {task.job.name}; free space and run this again"
            ) from error
        raise
    return level


def _measure_agreement(levels: tuple[Level, ...], bundle: Path, reporter: Reporter) -> tuple[Level, ...]:
    """``levels`` with the agreement of drafters and intermediates with the target, where it can be measured."""
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


def _is_done(output: Path, key: str) -> bool:
    """Whether ``output`` is the complete bundle of this request; BundleError if it is anything else that exists."""
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
