"""Costs are kept beside the bundle, in the form that ``calibrate`` measures and in the short form of the first use.

What is stored names the device, the versions and the files it was measured with; other ones are measured again. The
whole form serves every plan, and plans are made with it; the short one is of what one plan opens.
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
from runtime.calibration.opened import Opened, open_models
from runtime.kernels.backends import PORTABLE, Native
from runtime.kernels.library import open_library


def costs_of(opened: Opened, notify: Callable[[str], None]) -> MeasuredCosts:
    """What is stored for everything that is open in ``opened``, or else what the short form measures now.

    ``notify`` is told in one line that there is a wait, and why. See ``calibrate`` for what measuring does.
    """
    whole, stale = recall_costs(opened, quick=False)
    if whole is not None:
        return whole
    short, also_stale = recall_costs(opened, quick=True)
    if short is not None:
        return short
    other = "those on record are damaged, or of another device or version"
    why = other if stale or also_stale else "once for this device"
    if can_write(_folder(opened.bundle)):  # else it was said at opening that this happens at every start
        notify(f"measuring what rows cost here ({why}); python -m runtime calibrate does it thoroughly")
    costs = calibrate(opened, quick=True)
    store_costs(opened, costs)
    return costs


def recall_costs(opened: Opened, quick: bool) -> tuple[MeasuredCosts | None, bool]:
    """What is stored in one of the forms for all that is open, and whether anything else is stored in its place."""
    costs, found = _recall(_record_of(opened, quick))
    if costs is not None and not set(open_models(opened)) <= set(costs.levels):
        return None, False
    return costs, found and costs is None


def store_costs(opened: Opened, costs: MeasuredCosts) -> None:
    """Keeps ``costs``; a folder that cannot be written, or a full disk, costs the record only."""
    record = _record_of(opened, costs.quick)
    remember(record.folder, record.name, record.key, json.loads(dump_costs(costs)))


def planning_costs(
    bundle: Path, manifest: Manifest, request: Request, residences: Mapping[str, Residence]
) -> MeasuredCosts | None:
    """What is stored of the whole form for a bundle that is not open yet, to plan with; None if there is nothing."""
    inputs = PlanInputs(manifest, Device(0, 0, residences=dict(residences)), request)
    target = manifest.target.name
    try:
        kernels = Native(open_library(), Path()) if inputs.residence(target) == "native" else PORTABLE
    except PocketspecError:
        return None
    ways = _placed((level.name, inputs.placement(level.name)) for level in manifest.levels)
    kv_type = request.kv_type or inputs.kv_types(target)[0]
    name = _name("full", kernels.name, kv_type, request.threads, ways)
    return _recall(_StoredCosts(_folder(bundle), name, _key(bundle, manifest, kernels.key)))[0]


@dataclass(frozen=True)
class _StoredCosts:
    """Where costs are kept, and what they hang on beside what stands in the name."""

    folder: Path
    name: str
    key: Any


def _recall(record: _StoredCosts) -> tuple[MeasuredCosts | None, bool]:
    """The costs on record, and whether there is a record of that name at all."""
    value, found = look_up(record.folder, record.name, record.key)
    if value is None:
        return None, found
    try:
        return parse_costs(json.dumps(value), str(record.folder / f"{record.name}.json")), True
    except CostsError:
        return None, True


def _record_of(opened: Opened, quick: bool) -> _StoredCosts:
    """One record for every way to open the bundle that has other costs."""
    plan, kernels = opened.plan, opened.target.kernels
    ways = _placed((level.name, level.placement) for level in plan.levels)
    if quick:
        ways += [[level.name for level in plan.levels], asdict(plan.draft)]
    name = _name("quick" if quick else "full", kernels.name, plan.target.kv_type, plan.threads, ways)
    return _StoredCosts(_folder(opened.bundle), name, _key(opened.bundle, opened.manifest, kernels.key))


def _placed(places: Iterable[tuple[str, Placement]]) -> list[Any]:
    return [[name, asdict(place)] for name, place in places if place != Placement()]


def _name(form: str, kernels: str, kv_type: str, threads: int | None, ways: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(ways).encode()).hexdigest()[:8]
    return f"costs-{form}-{kernels}-{kv_type}-{threads or read_cores().usable}-{digest}"


def _folder(bundle: Path) -> Path:
    """Bundles of other builders are never written to."""
    if is_foreign(bundle):
        return user_folder() / hashlib.sha256(str(bundle.resolve()).encode()).hexdigest()[:16]
    return device_folder(bundle)


def _key(bundle: Path, manifest: Manifest, kernels: tuple[str, ...]) -> Any:
    """Versions, device and files; those of other builders are not hashed."""
    if is_foreign(bundle):
        files: Any = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in bundle.glob("*.onnx*")}
    else:
        files = {name: entry.sha256 for name, entry in manifest.files.items() if ".onnx" in name}
    return [SCHEMA, device_key(), files, kernels]
