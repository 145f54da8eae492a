"""Costs are kept beside the bundle, in the form that ``calibrate`` measures and in the short form of the first use.

What is stored names the device, the versions and the files it was measured with; other ones are measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory.costs import SCHEMA, CostsError, MeasuredCosts, dump_costs, parse_costs
from memory.plan import Placement
from runtime.calibration.measure import calibrate, open_models
from runtime.foreign import is_foreign
from runtime.record import device_folder, device_key, look_up, remember, user_folder

if TYPE_CHECKING:
    from runtime.engine import Engine


def costs_of(engine: Engine, notify: Callable[[str], None]) -> MeasuredCosts:
    """What is stored for everything that is open in ``engine``, or else what the short form measures now.

    ``notify`` is told in one line that there is a wait, and why. See ``calibrate`` for what measuring does.
    """
    whole, stale = recall_costs(engine, quick=False)
    if whole is not None:
        return whole
    short, also_stale = recall_costs(engine, quick=True)
    if short is not None:
        return short
    why = (
        "those on record are damaged, or of another device or version"
        if stale or also_stale
        else "once for this device"
    )
    notify(f"measuring what rows cost here ({why}); python -m runtime calibrate does it thoroughly")
    costs = calibrate(engine, quick=True)
    store_costs(engine, costs)
    return costs


def recall_costs(engine: Engine, quick: bool) -> tuple[MeasuredCosts | None, bool]:
    """What is stored in one of the forms for all that is open, and whether anything else is stored in its place."""
    folder, name = _folder(engine.bundle), _name(engine, quick)
    value, found = look_up(folder, name, _key(engine))
    if value is None:
        return None, found
    try:
        costs = parse_costs(json.dumps(value), str(folder / f"{name}.json"))
    except CostsError:
        return None, True
    return (costs, False) if set(open_models(engine)) <= set(costs.levels) else (None, False)


def store_costs(engine: Engine, costs: MeasuredCosts) -> None:
    """Keeps ``costs``; a folder that cannot be written, or a full disk, costs the record only."""
    remember(_folder(engine.bundle), _name(engine, costs.quick), _key(engine), json.loads(dump_costs(costs)))


def _folder(bundle: Path) -> Path:
    """Bundles of other builders are never written to."""
    if is_foreign(bundle):
        return user_folder() / hashlib.sha256(str(bundle.resolve()).encode()).hexdigest()[:16]
    return device_folder(bundle)


def _name(engine: Engine, quick: bool) -> str:
    """One record for every way to open the bundle that has other costs; short ones are of what is open alone."""
    plan = engine.plan
    if quick:
        ways: Any = [{level.name: asdict(level.placement) for level in plan.levels}, asdict(plan.draft)]
    else:
        ways = [[level.name, asdict(level.placement)] for level in plan.levels if level.placement != Placement()]
    digest = hashlib.sha256(json.dumps(ways).encode()).hexdigest()[:8]
    form = "quick" if quick else "full"
    return f"costs-{form}-{engine.target.kernels.name}-{plan.target.kv_type}-{plan.threads or 'all'}-{digest}"


def _key(engine: Engine) -> Any:
    """What costs hang on, as far as it does not stand in the name."""
    if is_foreign(engine.bundle):
        files = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in engine.bundle.glob("*.onnx*")}
        return [SCHEMA, device_key(), files, engine.target.kernels.key]
    hashes = {name: entry.sha256 for name, entry in engine.manifest.files.items() if ".onnx" in name}
    return [SCHEMA, device_key(), hashes, engine.target.kernels.key]
