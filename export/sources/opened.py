"""Opens what a level is exported from: a checkpoint of the Hub or a folder, random weights, or a timing vehicle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.manifest import Source
from export.request import ExportRequest, Job
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.hub import fetch_checkpoint, resolved_revision
from export.sources.random_weights import RandomWeights
from export.sources.targets import load_config
from export.sources.tensor_source import TensorSource
from export.sources.timing_vehicle import Vehicle


@dataclass(frozen=True)
class Model:
    """A level's model before its weights are read: configuration, where it came from, and the folder of its texts.

    ``folder`` holds the tokenizer and its configuration; None where a known shape is used without a download.
    """

    config: Any
    provenance: Source
    folder: Path | None


def describe_model(job: Job, request: ExportRequest) -> Model:
    """The model of a level, without its weights: small files are downloaded, large ones are not."""
    target = job.model
    if request.random_weights and target.config_path is not None:
        source = Source(target.hub_id or target.name, None, target.licence, "random-weights")
        return Model(load_config(target.config_path), source, target.folder)
    folder = _fetch(job, request, weights=False)
    config = load_config(folder)
    source = Source(target.hub_id or target.name, resolved_revision(folder), target.licence or _licence(folder))
    if request.random_weights:
        return Model(config, replace(source, kind="random-weights"), folder)
    if job.enlarge_like is None:
        return Model(config, source, folder)
    vehicle = _enlarge(_fetch(job, request, weights=True), job.enlarge_like, request)
    return Model(vehicle.config, replace(source, kind="timing-vehicle"), folder)


def open_weights(job: Job, request: ExportRequest, model: Model) -> tuple[Any, TensorSource]:
    """The configuration and the tensors of a level, downloaded if they must be; both as transformers reads them."""
    if request.random_weights:
        return model.config, RandomWeights(model.config)
    folder = _fetch(job, request, weights=True)
    if job.enlarge_like is not None:
        vehicle = _enlarge(folder, job.enlarge_like, request)
        return vehicle.config, vehicle
    return load_tensors(model.config, _checkpoint(folder, model.config))


def _enlarge(folder: Path, like: str, request: ExportRequest) -> Vehicle:
    config = load_config(folder)
    config, tensors = load_tensors(config, _checkpoint(folder, config))
    return Vehicle(tensors, config, like, request.positions)


def _checkpoint(folder: Path, config: Any) -> Checkpoint:
    return Checkpoint(folder, getattr(config, "transformers_weights", None))


def _fetch(job: Job, request: ExportRequest, weights: bool) -> Path:
    target = job.model
    asked = request.revision if job.role == "target" else None
    if target.folder is not None:
        return fetch_checkpoint(target.folder, asked, request.cache_dir, weights)
    assert target.hub_id is not None
    revision = asked or target.revision
    return fetch_checkpoint(target.hub_id, revision, request.cache_dir, weights)


def _licence(folder: Path) -> str | None:
    """What the folder itself says of its licence: the name of its licence file, if it has one."""
    return next((path.name for path in sorted(folder.glob("LICENSE*"))), None)
