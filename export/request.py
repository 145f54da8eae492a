"""What a user asks to export, and the levels that follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.manifest import PocketspecError, Role, WeightType
from export.sources.targets import Target, check_family, resolve

KernelChoice = Literal["auto", "native", "portable"]
BITS: dict[WeightType, int] = {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}
BLOCK_SIZES = (16, 32, 64, 128, 256)
NATIVE_BLOCK_SIZES = (32, 64, 128)
# The drafter that a target comes with.
OWN = "own"


class RequestError(PocketspecError, ValueError):
    """A request that contradicts itself or cannot be met; the message says what to change."""


@dataclass(frozen=True)
class ExportRequest:
    """The export of one bundle. Models have names that ``targets.resolve`` knows.

    ``drafters``, ``intermediates``: None means those suggested for the target, () none. ``drafter_weights``: None means
    those of the target. ``block_size``, ``method``: None means the default. ``random_weights`` and ``enlarge_like`` (a
    known name whose shape the target gets) make stand-ins for timing. ``positions``: the longest context; None means
    the model's own. ``kernels``: "auto" writes the small graphs for our own kernels, "native" their packed weights as
    well, "portable" neither. ``draft_vocab``: how many tokens keep their logits in drafters, the most frequent ones of
    ``texts``; None: all. ``int4_drafter``: the high halves of the target's int8 codes are a drafter. ``table_texts``:
    what follows what in these texts is a drafter.
    """

    target: str
    output: Path
    weights: WeightType = "int4"
    drafters: tuple[str, ...] | None = None
    intermediates: tuple[str, ...] | None = None
    drafter_weights: WeightType | None = None
    block_size: int | None = None
    method: str | None = None
    calibration_text: Path | None = None
    random_weights: bool = False
    enlarge_like: str | None = None
    positions: int | None = None
    revision: str | None = None
    cache_dir: Path | None = None
    kernels: KernelChoice = "auto"
    check_text: Path | None = None
    draft_vocab: int | None = None
    texts: tuple[Path, ...] = ()
    int4_drafter: bool = False
    table_texts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ExportJob:
    """One level to export: ``folder`` is its folder in the bundle, ``model`` the model that it is made of.

    ``is_own``: it is the prediction head that ``model``, the target, comes with.
    """

    role: Role
    name: str
    folder: str
    model: Target
    weights: WeightType
    enlarge_like: str | None = None
    is_own: bool = False


def make_jobs(request: ExportRequest) -> tuple[ExportJob, ...]:
    """The levels of a request: target, drafters in their order, intermediates; RequestError for contradictions."""
    _check(request)
    target = resolve(request.target)
    names = {short_name(target.name)}
    jobs = [ExportJob("target", short_name(target.name), ".", target, request.weights, request.enlarge_like)]
    suggested = () if target.intermediate is None else (target.intermediate,)
    drafters = target.drafters if request.drafters is None else request.drafters
    intermediates = suggested if request.intermediates is None else request.intermediates
    if request.draft_vocab is not None and not drafters:
        raise RequestError("--draft-vocab cuts the heads of drafters, and there is none; drop it or give --drafter")
    for name in drafters:
        if name == OWN:
            jobs.append(_own_head(target, request, names))
            continue
        model, level = _partner(name, "drafter", names)
        weights = request.drafter_weights or request.weights
        jobs.append(ExportJob("drafter", level, f"drafters/{level}", model, weights))
    for name in intermediates:
        model, level = _partner(name, "intermediate", names)
        jobs.append(ExportJob("intermediate", level, f"intermediate/{level}", model, request.weights))
    for job in jobs:
        check_family(target, job.model)
    return tuple(jobs)


def _own_head(target: Target, request: ExportRequest, names: set[str]) -> ExportJob:
    """The prediction head of ``target``; RequestError if it is asked for twice."""
    if OWN in names:
        raise RequestError(f"drafter {OWN!r} is given twice; name every model once")
    names.add(OWN)
    weights = request.drafter_weights or request.weights
    return ExportJob("drafter", OWN, f"drafters/{OWN}", target, weights, is_own=True)


def default_output(request: ExportRequest) -> Path:
    """``bundles/<target>-<quant>``; the name of a stand-in says what it is."""
    name = short_name(resolve(request.target).name)
    kind = "-random" if request.random_weights else f"-like-{request.enlarge_like}" if request.enlarge_like else ""
    return Path("bundles") / f"{name}{kind}-{request.weights}"


def _partner(name: str, role: Role, names: set[str]) -> tuple[Target, str]:
    """The model called ``name``, and an unused name for its level."""
    model = resolve(name)
    level = short_name(model.name)
    if level in names:
        level = f"{level}-{role}"
    if level in names:
        raise RequestError(f"{role} {name!r} is given twice; name every model once")
    names.add(level)
    return model, level


def short_name(name: str) -> str:
    """A model's name as a folder name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"


def _check(request: ExportRequest) -> None:
    if request.random_weights and request.enlarge_like:
        raise RequestError("--random-weights and --enlarge-like exclude each other; drop one of them")
    if request.random_weights and request.calibration_text:
        raise RequestError("random weights cannot be calibrated; drop --calibration-text or --random-weights")
    if request.block_size is not None:
        _check_block_size(request.block_size, [request.weights, request.drafter_weights])
    if request.positions is not None and request.positions < 2:
        raise RequestError(f"--positions {request.positions} is too few; at least 2")
    if request.kernels == "native":
        _check_native(request)
    if request.int4_drafter:
        _check_int4_drafter(request)
    if request.draft_vocab is not None and request.draft_vocab < 2:
        raise RequestError(f"--draft-vocab {request.draft_vocab} is too few; at least 2, and usually thousands")
    if request.texts and request.draft_vocab is None:
        raise RequestError("--text is counted for --draft-vocab alone; give that too, or drop it")
    texts = [("--check-text", request.check_text), ("--calibration-text", request.calibration_text)]
    texts += [("--text", path) for path in request.texts]
    for option, path in [*texts, *(("--draft-table", path) for path in request.table_texts)]:
        if path is not None and not path.is_file():
            raise RequestError(f"{option} {path}: no such file; give a UTF-8 text file")


def _check_native(request: ExportRequest) -> None:
    """RequestError unless our kernels can run the target; drafters may be of any kind."""
    if BITS[request.weights] > 8:
        raise RequestError(f"--kernels native needs int4 or int8 weights, not {request.weights}; use --kernels auto")
    if request.block_size is not None and request.block_size not in NATIVE_BLOCK_SIZES:
        allowed = ", ".join(map(str, NATIVE_BLOCK_SIZES))
        raise RequestError(f"--kernels native needs blocks of {allowed}, not {request.block_size}; use --kernels auto")


def _check_int4_drafter(request: ExportRequest) -> None:
    """RequestError unless the target has codes whose halves our kernels can read apart."""
    if request.weights != "int8":
        raise RequestError(f"--int4-drafter is half of an int8 target, not of {request.weights}; add --quant int8")
    if request.kernels == "portable":
        raise RequestError("--int4-drafter runs with native kernels alone; drop --kernels portable")
    if request.block_size is not None and request.block_size not in NATIVE_BLOCK_SIZES:
        allowed = ", ".join(map(str, NATIVE_BLOCK_SIZES))
        raise RequestError(f"--int4-drafter needs blocks of {allowed}, not {request.block_size}; drop one of them")


def _check_block_size(size: int, weights: Iterable[WeightType | None]) -> None:
    if size not in BLOCK_SIZES:
        allowed = ", ".join(map(str, BLOCK_SIZES))
        raise RequestError(f"--block-size {size} is not supported; one of {allowed}")
    if not {"int4", "int8"} & set(weights):
        raise RequestError(f"--block-size {size} means nothing without int4 or int8 weights; drop it")
