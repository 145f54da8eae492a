"""Stores costs beside the bundle, in the full form of ``calibrate`` and in the short form of the first use.

A record names the device, the versions and the files it was measured with; with others, costs are measured again. The
full form serves every plan and is planned with; the short form covers only what one plan opens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.manifest import Manifest, PocketspecError
from export.own_files import can_write
from memory.choices import PlanInputs, Request
from memory.cores import read_cores
from memory.costs import SCHEMA, CostsError, MeasuredCosts, dump_costs, parse_costs
from memory.device import Device, Residence
from memory.plan import Placement
from runtime.bundle.device_cache import device_folder, device_key, look_up, remember, user_folder
from runtime.bundle.foreign import is_foreign
from runtime.calibration.measure import calibrate
from runtime.calibration.opened import OpenEngine, open_models
from runtime.kernels.backends import PORTABLE, Native
from runtime.kernels.library import open_library


def costs_of(opened: OpenEngine, notify: Callable[[str], None]) -> MeasuredCosts:
    """The stored costs of everything that is open in ``opened``, or else those that the short form measures now.

    ``notify`` gets a line about the wait and its reason. ``calibrate`` says what measuring does.
    """
    whole, stale = recall_costs(opened, quick=False)
    if whole is not None:
        return whole
    short, also_stale = recall_costs(opened, quick=True)
    if short is not None:
        return short
    other = "those on record are damaged, or of another device or version"
    why = other if stale or also_stale else "once for this device"
    if can_write(_folder(opened.bundle)):  # otherwise a note at opening has said that this happens at every start
        notify(f"measuring what rows cost here ({why}); python -m runtime calibrate does it thoroughly")
    costs = calibrate(opened, quick=True)
    store_costs(opened, costs)
    return costs


def recall_costs(opened: OpenEngine, quick: bool) -> tuple[MeasuredCosts | None, bool]:
    """The stored costs of all open levels in the form asked for, and whether there is a record of that name at all."""
    costs, found = _recall(_record_of(opened, quick))
    if costs is not None and not set(open_models(opened)) <= set(costs.levels):
        return None, False
    return costs, found and costs is None


def store_costs(opened: OpenEngine, costs: MeasuredCosts) -> None:
    """Stores ``costs``; if the folder cannot be written or the disk is full, they are measured again next time."""
    record = _record_of(opened, costs.quick)
    remember(record.folder, record.name, record.key, json.loads(dump_costs(costs)))


def planning_costs(
    bundle: Path, manifest: Manifest, request: Request, residences: Mapping[str, Residence]
) -> MeasuredCosts | None:
    """The stored full form for a bundle that is not open yet, to plan with; None if there is none."""
    inputs = PlanInputs(manifest, Device(0, 0, residences=dict(residences)), request)
    target = manifest.target.name
    try:
        kernels = Native(open_library(), Path()) if inputs.residence(target) == "native" else PORTABLE
    except PocketspecError:
        return None
    ways = _placed((level.name, inputs.placement(level.name)) for level in manifest.levels)
    kv_type = request.kv_type or inputs.kv_types(target)[0]
    name = _name("full", kernels.name, kv_type, request.threads, ways)
    return _recall(_CostRecord(_folder(bundle), name, _key(bundle, manifest, kernels.key)))[0]


@dataclass(frozen=True)
class _CostRecord:
    """The place of stored costs, and what they depend on beside what is in the name."""

    folder: Path
    name: str
    key: Any


def _recall(record: _CostRecord) -> tuple[MeasuredCosts | None, bool]:
    """The costs in ``record``, and whether there is a record of that name at all."""
    value, found = look_up(record.folder, record.name, record.key)
    if value is None:
        return None, found
    try:
        return parse_costs(json.dumps(value), str(record.folder / f"{record.name}.json")), True
    except CostsError:
        return None, True


def _record_of(opened: OpenEngine, quick: bool) -> _CostRecord:
    """One record for every way to open the bundle that has costs of its own."""
    plan, kernels = opened.plan, opened.target.kernels
    ways = _placed((level.name, level.placement) for level in plan.levels)
    if quick:
        ways += [[level.name for level in plan.levels], asdict(plan.draft)]
    name = _name("quick" if quick else "full", kernels.name, plan.target.kv_type, plan.threads, ways)
    return _CostRecord(_folder(opened.bundle), name, _key(opened.bundle, opened.manifest, kernels.key))


def _placed(places: Iterable[tuple[str, Placement]]) -> list[Any]:
    return [[name, asdict(place)] for name, place in places if place != Placement()]


def _name(form: str, kernels: str, kv_type: str, threads: int | None, ways: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(ways).encode()).hexdigest()[:8]
    return f"costs-{form}-{kernels}-{kv_type}-{threads or read_cores().usable}-{digest}"


def _folder(bundle: Path) -> Path:
    """The folder for records; bundles of other builders are never written to."""
    if is_foreign(bundle):
        return user_folder() / hashlib.sha256(str(bundle.resolve()).encode()).hexdigest()[:16]
    return device_folder(bundle)


def _key(bundle: Path, manifest: Manifest, kernels: tuple[str, ...]) -> Any:
    """Versions, device and files; files of other builders are not hashed."""
    if is_foreign(bundle):
        files: Any = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in bundle.glob("*.onnx*")}
    else:
        files = {name: entry.sha256 for name, entry in manifest.files.items() if ".onnx" in name}
    return [SCHEMA, device_key(), files, kernels]
