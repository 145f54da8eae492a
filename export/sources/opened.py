"""Opens what a level is exported from: a checkpoint of the Hub or a folder, random weights, or a timing vehicle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.manifest import Source
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.hub import fetch_checkpoint, resolved_revision
from export.sources.random_weights import RandomWeights
from export.sources.targets import Target, load_config
from export.sources.tensor_source import TensorSource
from export.sources.timing_vehicle import Vehicle


@dataclass(frozen=True)
class ModelOrigin:
    """Which model a level is made of, and how.

    ``revision`` None means the target's own, ``cache_dir`` None the Hub's cache. ``random_weights`` and
    ``enlarge_like`` (a known name) make stand-ins for timing; ``positions`` is the longest context of an enlarged one.
    """

    target: Target
    revision: str | None = None
    cache_dir: Path | None = None
    random_weights: bool = False
    enlarge_like: str | None = None
    positions: int | None = None


@dataclass(frozen=True)
class ModelDescription:
    """A level's model before its weights are read: configuration, where it came from, and the folder of its texts.

    ``folder`` holds the tokenizer and its configuration; None where a known shape is used without a download.
    """

    config: Any
    provenance: Source
    folder: Path | None


def describe_model(origin: ModelOrigin, read_config: Callable[[Path], Any] = load_config) -> ModelDescription:
    """The model of a level, without its weights: small files are downloaded, large ones are not."""
    target = origin.target
    if origin.random_weights and target.config_path is not None:
        source = Source(target.hub_id or target.name, None, target.licence, "random-weights")
        return ModelDescription(load_config(target.config_path), source, target.folder)
    folder = _fetch(origin, weights=False)
    config = read_config(folder)
    source = Source(target.hub_id or target.name, resolved_revision(folder), target.licence or _licence(folder))
    if origin.random_weights:
        return ModelDescription(config, replace(source, kind="random-weights"), folder)
    if origin.enlarge_like is None:
        return ModelDescription(config, source, folder)
    vehicle = _enlarge(_fetch(origin, weights=True), origin.enlarge_like, origin.positions)
    return ModelDescription(vehicle.config, replace(source, kind="timing-vehicle"), folder)


def open_weights(origin: ModelOrigin, config: Any) -> tuple[Any, TensorSource]:
    """The configuration and the tensors of a level, downloaded if they must be; both as transformers reads them.

    ``config`` is the one that ``describe_model`` gave.
    """
    if origin.random_weights:
        return config, RandomWeights(config)
    folder = _fetch(origin, weights=True)
    if origin.enlarge_like is not None:
        vehicle = _enlarge(folder, origin.enlarge_like, origin.positions)
        return vehicle.config, vehicle
    return load_tensors(config, _checkpoint(folder, config))


def _enlarge(folder: Path, like: str, positions: int | None) -> Vehicle:
    config = load_config(folder)
    config, tensors = load_tensors(config, _checkpoint(folder, config))
    return Vehicle(tensors, config, like, positions)


def open_checkpoint(origin: ModelOrigin, config: Any, beside: Sequence[str] = ()) -> Checkpoint:
    """The files of a checkpoint, whatever tensors they have; downloaded if they must be. See ``Checkpoint``."""
    return _checkpoint(_fetch(origin, weights=True), config, beside)


def _checkpoint(folder: Path, config: Any, beside: Sequence[str] = ()) -> Checkpoint:
    return Checkpoint(folder, getattr(config, "transformers_weights", None), beside)


def _fetch(origin: ModelOrigin, weights: bool) -> Path:
    target = origin.target
    if target.folder is not None:
        return fetch_checkpoint(target.folder, origin.revision, origin.cache_dir, weights)
    assert target.hub_id is not None
    return fetch_checkpoint(target.hub_id, origin.revision or target.revision, origin.cache_dir, weights)


def _licence(folder: Path) -> str | None:
    """What the folder itself says of its licence: the name of its licence file, if it has one."""
    return next((path.name for path in sorted(folder.glob("LICENSE*"))), None)
