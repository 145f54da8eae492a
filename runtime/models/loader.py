"""Opens the levels of a bundle as a plan says, and changes the sizes of open ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from export.manifest import Level, Manifest
from memory.cores import read_cores
from memory.device import Residence
from memory.plan import LevelPlan, Plan
from runtime.bundle.device_cache import can_keep, device_folder, device_key, recall
from runtime.bundle.foreign import is_foreign
from runtime.kernels.backends import Kernels
from runtime.kernels.library import KernelsError
from runtime.kernels.selection import Chooser
from runtime.models.exact_widths import SafeWidths, any_width, are_widths, find_safe_widths
from runtime.models.ort_model import OrtModel
from runtime.models.placement import CPU, check_placement
from runtime.process.allocator import give_back


class OtherResidenceError(Exception):
    """The weights of ``level`` are in memory as ``residence`` says, which is not what the plan expects."""

    def __init__(self, level: str, residence: Residence) -> None:
        super().__init__(f"the weights of {level} are {residence} here, and the plan says otherwise")
        self.level, self.residence = level, residence


@dataclass(frozen=True)
class Levels:
    """The levels of a bundle, opened as plans say with the kernels that ``chooser`` finds.

    ``notify`` is given lines that users should read. The target is opened as a ``target_type``.
    """

    target_type: ClassVar[type[OrtModel]] = OrtModel

    bundle: Path
    manifest: Manifest
    chooser: Chooser
    notify: Callable[[str], None]

    def expected_residences(self) -> dict[str, Residence]:
        """Where the weights of every level will be if nothing fails."""
        return {level.name: self.chooser.expected_residence(self.manifest, level) for level in self.manifest.levels}

    def open_target(self, plan: Plan) -> OrtModel:
        """The target, with the widths that agree bit for bit on this device; they are found once and stored.

        UnsupportedModelError before anything is opened if a level of the plan cannot be placed as planned.
        """
        for level in plan.levels:
            check_placement(level.name, level.placement)
        model = self._open(plan.target, plan, self.target_type)

        def find() -> dict[str, Any]:
            if is_foreign(self.bundle) or can_keep(self.bundle):
                self.notify("testing which row counts agree bit for bit (once for this model on this device)")
            found = asdict(find_safe_widths(model))
            give_back()
            return found

        hashes = {name: entry.sha256 for name, entry in self.manifest.files.items() if ".onnx" in name}
        kv_type, provider = plan.target.kv_type, plan.target.placement.provider
        threads = plan.threads_of(plan.target) or read_cores().usable
        key = [device_key(), hashes, provider, threads, model.max_rows, kv_type, model.kernels.key]
        name = f"widths-{model.kernels.name}-{kv_type}-{threads}-{model.max_rows}"

        def is_valid(value: Any) -> bool:
            return are_widths(value, model.max_rows)

        found = find() if is_foreign(self.bundle) else recall(device_folder(self.bundle), name, key, find, is_valid)
        model.widths = SafeWidths(tuple(found["widths"]), found["exact"], found["tree"])
        if not model.widths.exact:
            self.notify("no two row counts agree bit for bit here: speculation is exact up to near ties")
        model.fixed_width = plan.fixed_width
        return model

    def open_drafters(
        self, plan: Plan, target: OrtModel, kept: dict[str, OrtModel] | None = None
    ) -> dict[str, OrtModel]:
        """Every planned drafter by name; those in ``kept`` are already open and are resized to the plan.

        Drafters that are part of the ``target`` share its KV cache.
        """
        models: dict[str, OrtModel] = {}
        for planned in plan.levels[1:]:
            model = (kept or {}).get(planned.name)
            if model is not None:
                fit(model, planned, plan)
            models[planned.name] = model or self._open(planned, plan, lender=target)
        return models

    def _open(
        self, planned: LevelPlan, plan: Plan, model_type: type[OrtModel] = OrtModel, lender: OrtModel | None = None
    ) -> OrtModel:
        level: Level = self.manifest.level(planned.name)
        widths = any_width(planned.max_rows)

        def make(kernels: Kernels) -> OrtModel:
            if kernels.name == "native" and planned.placement.provider != CPU.provider:
                raise KernelsError(
                    f"native kernels run on CPUs, and {level.name} is placed on {planned.placement.provider}"
                )
            if kernels.residence != planned.residence:
                raise OtherResidenceError(level.name, kernels.residence)
            return model_type.open(
                self.bundle,
                level,
                planned,
                plan.threads_of(planned),
                plan.prefill_chunk,
                widths,
                kernels,
                first_rows=planned.first_capacity,
                growth=planned.growth,
                lender=None if level.self_draft is None else lender,
            )

        return self.chooser.open(self.bundle, self.manifest, level, make)


def fit(model: OrtModel, planned: LevelPlan, plan: Plan) -> None:
    """Resizes an open level to another plan. The content of its cache is kept if it still fits."""
    if model.cache.length > planned.capacity - planned.max_rows:
        model.cache.rollback(0)  # a drafter: it reads again what it needs (the target's capacity never falls)
    model.resize(planned.capacity, planned.max_rows, plan.prefill_chunk, planned.hidden_rows, planned.logits_rows)
