"""What a benchmark compares and opens, and the loop that keeps all answers when a run ends early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from export.manifest import Manifest, PocketspecError
from memory.choices import MAX_NODES, TREE_SIZES
from runtime.bench.contenders import (
    ALL_DRAFTERS,
    PERFECT,
    Contender,
    all_drafters,
    default_names,
    drafter_names,
    levels_of,
    parse_contender,
)
from runtime.bench.measure import AnswerRecord, Bench
from runtime.decoding.draft import DraftLimit
from runtime.drafters.registry import registered
from runtime.engine import Engine
from runtime.kernels.selection import Wanted
from runtime.models.ort_model import OrtModel
from runtime.speculation.request import AUTO, check_drafter, levels_below


def choose_contenders(names: str | None, manifest: Manifest, where: str) -> list[Contender]:
    """The contenders in ``names``, separated by commas; None: the default ones. PocketspecError for impossible ones.

    ``where`` says in errors what was searched, as in "in BUNDLE".
    """
    asked = default_names(manifest) if names is None else [name.strip() for name in names.split(",")]
    if ALL_DRAFTERS in asked:
        place = asked.index(ALL_DRAFTERS)
        asked[place : place + 1] = [name for name in all_drafters(manifest) if name not in asked]
    twice = sorted({name for name in asked if asked.count(name) > 1})
    if twice:
        raise PocketspecError(f"contender {twice[0]!r} is named twice; name each once, --repeat measures it again")
    contenders = [parse_contender(name, drafter_names(manifest)) for name in asked]
    for contender in contenders:
        if not contender.is_plain and contender.speculation.drafter != PERFECT:
            check_contender(contender, manifest, where)
    return contenders


def check_contender(contender: Contender, manifest: Manifest, where: str) -> None:
    """PocketspecError if the bundle cannot run this contender."""
    speculation, levels = contender.speculation, levels_below(manifest)
    if speculation.drafter != AUTO:
        check_drafter(speculation.drafter, levels, where, files=manifest.files)
    if _is_tree(contender) and not manifest.target.tree:
        raise PocketspecError(f"contender {contender.name}: the target {where} cannot verify trees; compare chains")
    kind = speculation.only
    if kind in ("chain", "tree") and not levels:
        raise PocketspecError(f"contender {contender.name}: no drafter {where}; compare suffix, or export one")
    if kind == "hierarchy" and all(level.role != "intermediate" for level in manifest.levels):
        raise PocketspecError(f"contender {contender.name}: no intermediate level {where}; compare chain or tree")


def request_fields(contenders: Sequence[Contender], rows: Sequence[int], manifest: Manifest) -> dict[str, Any]:
    """Fields of a Request with room for every contender, and for forwards of each number of ``rows``.

    If only "auto" drafts, there are no fields, so the plan is the usual one. Otherwise the plan has all levels that
    contenders may use, and drafts of the largest size that any of them has; where the scheduler chooses the size, that
    is the largest that the planner considers. PocketspecError if it is too large.
    """
    sizes = [limit.nodes for contender in contenders for limit in _limits(contender)]
    free = [contender for contender in contenders if contender.pick_name is None]
    if free and not sizes and not rows and all(map(_plans_as_usual, free)):
        return {}
    nodes = max([1, *sizes, *(count - 1 for count in rows), *([TREE_SIZES[0]] if free else [])])
    if nodes > MAX_NODES:
        raise PocketspecError(f"drafts or rows of {nodes} are too many; at most {MAX_NODES} (--rows {MAX_NODES + 1})")
    named = {level for contender in contenders for level in levels_of(contender, manifest)}
    wants_trees = any(map(_is_tree, contenders)) or (bool(free) and manifest.target.tree)
    return {
        "drafters": tuple(level for level in levels_below(manifest) if level in named),
        "shape": "tree" if wants_trees else "chain",
        "nodes": nodes,
    }


def worth_comparing(contenders: Sequence[Contender], engines: Mapping[Wanted | None, Engine]) -> list[Contender]:
    """The contenders without those that would tell nothing.

    Plain decoding at the safe width is left out if that width is one row. Trees are left out if the scheduler would
    never choose them, because their rows do not agree bit for bit with those of chains.
    """

    def is_worth_it(contender: Contender) -> bool:
        target = engines[contender.kernels].target
        if contender.is_plain:
            return contender.single_rows or target.padded(1) > 1
        return contender.speculation.only != "tree" or target.widths.tree or not target.widths.exact

    return [contender for contender in contenders if is_worth_it(contender)]


def open_models(engines: Mapping[Wanted | None, Engine]) -> dict[str, OrtModel]:
    """Every open level by name; where kernels are compared, with its kernels in front."""
    return {
        f"{kernels}:{name}" if kernels else name: model
        for kernels, engine in engines.items()
        for name, model in {engine.manifest.target.name: engine.target, **engine.drafters}.items()
    }


def collect(
    bench: Bench, contenders: Sequence[Contender], repeats: int, advance: Callable[[AnswerRecord], None]
) -> tuple[list[AnswerRecord], BaseException | None]:
    """All answers, each passed to ``advance`` as well, and the error that ended the run early, if any."""
    answers: list[AnswerRecord] = []
    try:
        for answer in bench.run(contenders, repeats):
            answers.append(answer)
            advance(answer)
    except BaseException as error:  # whatever it is, hours of measurements must not be lost
        return answers, error
    return answers, None


def _plans_as_usual(contender: Contender) -> bool:
    """Whether it makes do with whatever levels are planned."""
    speculation = contender.speculation
    return speculation.only is None and speculation.drafter in (AUTO, *registered())


def _is_tree(contender: Contender) -> bool:
    return contender.speculation.only == "tree" or any(limit.shape == "tree" for limit in _limits(contender))


def _limits(contender: Contender) -> Iterator[DraftLimit]:
    """The limits of a draft: for the target, then for each level below."""
    limit = contender.speculation.limit
    while limit is not None:
        yield limit
        limit = limit.inner
