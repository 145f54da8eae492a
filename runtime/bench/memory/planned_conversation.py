"""Holds a planned conversation that touches everything that the plan reserves, and measures its memory.

Prompts are random tokens, so no text is needed. Every turn ends closer to the end of the context. The drafters take
turns, and one of them makes drafts that are as wide as planned and practically always wrong. After the planned turns, a
whole chunk of prompt is read just before the end of the context, where attention needs most memory, and every drafter
continues to the last row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from export.manifest import Manifest
from memory.choices import Request
from memory.cores import read_cores
from memory.footprint import CONSTRAINTS
from memory.meter import Memory, PeakMeter, Phase, read_mapped_files, resident_bytes
from memory.plan import Plan, PlanError, check_plan
from runtime.bundle.foreign import read_bundle
from runtime.constraints.request import JsonSchema
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.suffix import NAME as SUFFIX
from runtime.engine import Engine
from runtime.kernels.selection import Chooser, Wanted
from runtime.models.loader import Levels, OtherResidenceError
from runtime.models.ort_model import OrtModel
from runtime.speculation.request import NONE, Speculation
from runtime.text.token_ids import open_tokenizer

# Most tokens of an answer; the last answers continue until the context is full.
_ANSWER = 16
# The schema of a constrained answer, and its most tokens.
_PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}}}
_FORM, _FORM_TOKENS = {"type": "array", "items": _PERSON, "minItems": 9}, 128
_SAMPLED = SamplingParams(temperature=1.0, top_k=50, top_p=0.95, seed=1)


@dataclass(frozen=True)
class ConversationMemory:
    """The memory of a conversation, in bytes.

    - ``phases``: the memory before, during and after every phase.
    - ``parts``: anonymous bytes by owner ("process" or a level) and part, under the plan's names. "activations" are
      those of all levels, together with everything that cannot be attributed.
    - ``weights``: the resident bytes of each level's mapped weights; ``files``: those of every mapped file, by path.
    - ``loading`` and ``running``: the peaks before and after all levels were open.
    - ``tokens`` and ``steps``: their numbers in the conversation.
    """

    phases: tuple[Phase, ...]
    parts: Mapping[str, Mapping[str, int]]
    weights: Mapping[str, int]
    files: Mapping[str, int]
    loading: Memory
    running: Memory
    tokens: int
    steps: int


def run_conversation(bundle: Path, plan: Plan, meter: PeakMeter, notify: Callable[[str], None]) -> ConversationMemory:
    """Opens ``bundle`` as planned and holds a conversation, while ``meter`` measures this process.

    PlanError if the plan is for another bundle, if it expects the weights elsewhere in memory, or if the system does
    not report a process's memory.
    """
    manifest = read_bundle(bundle)
    check_plan(plan, manifest)
    if not meter.phases:
        raise PlanError("this system does not tell what memory a process uses; only Linux does: measure there")
    with meter.phase("tokenizer"):
        tokenizer = open_tokenizer(bundle)
    kernels: Wanted = "native" if plan.target.residence == "native" else "portable"
    # The usual number of threads, but fixed. Otherwise, beside other programs, a portable model may open a second
    # session with fewer threads, which adds anonymous bytes that only the margin covers (2.4 MB of 4.4 with the demo).
    plan = replace(plan, threads=plan.threads or read_cores().usable)
    levels = _MeteredLevels(bundle, manifest, Chooser(kernels, notify), notify, meter)
    try:
        engine = Engine(levels, plan, Request(), tokenizer)
    except OtherResidenceError as error:
        raise PlanError(
            f"the plan is for weights of {error.level} that sit otherwise; here they are {error.residence}:"
            " make the plan again with the kernels this device has"
        ) from None
    with engine:
        opened = len(meter.phases)
        held_before = _held(engine)
        tokens, steps = _converse(engine, meter)
        return _measured(engine, manifest, meter.phases, opened, held_before, (tokens, steps))


@dataclass(frozen=True)
class _MeteredLevels(Levels):
    """Levels whose opening is measured as phases of its own."""

    meter: PeakMeter

    def open_target(self, plan: Plan) -> OrtModel:
        """See ``Levels``."""
        with self.meter.phase(f"open {plan.target.name}"):
            return super().open_target(plan)

    def open_drafters(
        self, plan: Plan, target: OrtModel, kept: dict[str, OrtModel] | None = None
    ) -> dict[str, OrtModel]:
        """See ``Levels``."""
        with self.meter.phase("open drafters"):
            return super().open_drafters(plan, target, kept)


class _WidestDrafter:
    """Drafts as many random nodes as the limit allows; practically all are wrong."""

    name = "widest"

    def __init__(self, vocab_size: int, tree: bool) -> None:
        self._vocab_size, self._tree = vocab_size, tree
        self._random = Random(3)

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        """See ``Drafter``. In a tree every node has two children."""
        nodes = min(limit.nodes, (1 << limit.depth + 1) - 2 if self._tree else limit.depth)
        parents = tuple((node - 1) // 2 if self._tree else node - 1 for node in range(nodes))
        return Draft(tuple(self._random.choices(range(self._vocab_size), k=nodes)), parents)


def _converse(engine: Engine, meter: PeakMeter) -> tuple[int, int]:
    """Runs all turns; returns the numbers of tokens and steps."""
    tokens = steps = 0
    trees = engine.plan.draft.shape == "tree" and engine.target.takes_trees
    if engine.plan.process.part(CONSTRAINTS).anonymous:
        with meter.phase(CONSTRAINTS):
            _answer_in_form(engine)
    for turn, (drafter, prompt, answer) in enumerate(_turns(engine)):
        made = engine.steps(
            prompt,
            stop=StopRule(max_new_tokens=answer),
            sampling=_SAMPLED if turn % 2 else SamplingParams(),
            speculation=Speculation(
                drafter, shape="tree" if trees and drafter in (SUFFIX, _WidestDrafter.name) else None
            ),
        )
        with meter.phase(f"turn {turn + 1}: prompt"):
            taken = [next(made)]
        with meter.phase(f"turn {turn + 1}: steps"):
            taken += made
        tokens, steps = tokens + len(prompt) + sum(len(step.tokens) for step in taken), steps + len(taken)
    return tokens, steps


def _answer_in_form(engine: Engine) -> None:
    """Gives an answer to a schema, whose memory is held from then on."""
    stop = StopRule(max_new_tokens=min(_FORM_TOKENS, engine.plan.context // 2))
    for _ in engine.steps([0], stop=stop, sampling=_SAMPLED, constraint=JsonSchema(_FORM)):
        pass


def _turns(engine: Engine) -> Iterator[tuple[str, list[int], int | None]]:
    """Drafter, prompt and most tokens of the answer (None: until the context is full) for every turn."""
    plan, vocab_size = engine.plan, engine.target.vocab_size
    tree = plan.draft.shape == "tree" and engine.target.takes_trees
    engine.add_drafter(_WidestDrafter(vocab_size, tree))
    drafters = [*engine.drafters, SUFFIX, _WidestDrafter.name] if plan.draft.nodes else [NONE]
    text, other = (_random_tokens(seed, vocab_size, plan.context) for seed in (1, 2))
    answer = min(_ANSWER, plan.context // 2)
    for turn in range(plan.turns):
        end = max(plan.context * (turn + 1) // plan.turns, answer + 1)
        yield drafters[turn % len(drafters)], text[: end - answer], answer
    length = plan.context - answer
    same = max(length - plan.prefill_chunk - 1, 0)
    for drafter in drafters:
        yield drafter, [*text[:same], *other[same:length]], None


def _random_tokens(seed: int, vocab_size: int, count: int) -> list[int]:
    return Random(seed).choices(range(vocab_size), k=count)


def _models(engine: Engine) -> dict[str, OrtModel]:
    return {engine.manifest.target.name: engine.target, **engine.drafters}


def _held(engine: Engine) -> dict[str, dict[str, int]]:
    """Resident bytes of the arrays that each level holds."""
    return {
        name: {part: _resident(arrays) for part, arrays in model.arrays.items()}
        for name, model in _models(engine).items()
    }


def _resident(arrays: tuple[Any, ...]) -> int:
    return resident_bytes((array.ctypes.data, array.nbytes) for array in arrays) or 0


def _measured(
    engine: Engine,
    manifest: Manifest,
    phases: list[Phase],
    opened: int,
    held_before: dict[str, dict[str, int]],
    counts: tuple[int, int],
) -> ConversationMemory:
    """Reads the measurements; ``phases[:opened]`` are those until all levels were open."""
    held, grown = _held(engine), dict(_growths(phases[:opened]))
    open_bytes = phases[opened - 1].after.anonymous_bytes
    running, loading = _peak(phases[opened:]), _peak(phases[:opened])
    parts: dict[str, dict[str, int]] = {
        "process": {
            "Python and libraries": phases[0].before.anonymous_bytes + grown["libraries"],
            "tokenizer": grown["tokenizer"],
            "activations": running.anonymous_bytes - open_bytes - _total(held) + _total(held_before),
        }
    }
    target, *drafters = held
    for name in held:
        before = sum(held_before[name].values())
        opening = grown[f"open {target}"] if name == target else grown["open drafters"] // len(drafters)
        parts[name] = {**held[name], "session": opening - before}
    files = read_mapped_files() or {}
    weights = {
        name: sum(_resident_bytes(files, file) for file in model.kernels.mapped_files(manifest.level(name)))
        for name, model in _models(engine).items()
    }
    return ConversationMemory(tuple(phases), parts, weights, files, loading, running, *counts)


def _resident_bytes(files: Mapping[str, int], wanted: Path) -> int:
    """Of the mapped ``files``, the bytes of ``wanted`` under any of its names: KV types share a file by hard links."""
    return sum(count for path, count in files.items() if os.path.exists(path) and os.path.samefile(path, wanted))


def _growths(phases: list[Phase]) -> Iterator[tuple[str, int]]:
    """The growth of the process in each phase and since the phase before, in anonymous bytes."""
    before = phases[0].before.anonymous_bytes
    for phase in phases:
        yield phase.name, phase.after.anonymous_bytes - before
        before = phase.after.anonymous_bytes


def _peak(phases: list[Phase]) -> Memory:
    return Memory(max(phase.peak.anonymous_bytes for phase in phases), max(phase.peak.file_bytes for phase in phases))


def _total(held: dict[str, dict[str, int]]) -> int:
    return sum(sum(parts.values()) for parts in held.values())
