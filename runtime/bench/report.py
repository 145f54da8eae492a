"""A measurement with everything that is needed to repeat it and to doubt it: as summaries, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any

from export.manifest import Manifest
from memory.machine import describe_device, versions
from memory.plan import Plan
from runtime.bench.contenders import Contender, levels_of, references
from runtime.bench.intervals import RatioInterval, Spread
from runtime.bench.machine import describe_level, describe_place, stand_ins
from runtime.bench.measure import AnswerRecord
from runtime.bench.prompts import BenchPrompt
from runtime.bench.rows import EngineStart, measure_rows
from runtime.bench.summary import ComparedWith, Summary, summarize
from runtime.decoding.sampling import SamplingParams
from runtime.models.ort_model import OrtModel

OTHER = "(no category)"
ALL = "all prompts"


@dataclass(frozen=True)
class Setup:
    """What was asked for, and what was open.

    ``bandwidth`` is the machine's measured memory bandwidth in bytes/s. ``synthetic`` is the text that asked for
    simulated acceptance. ``load`` is the average number of runnable processes before the measurement.
    """

    command: str
    manifest: Manifest
    plan: Plan
    contenders: Sequence[Contender]
    prompts: Sequence[BenchPrompt]
    prompts_from: str
    repeats: int
    max_new_tokens: int
    sampling: SamplingParams
    kernels: Sequence[str]
    baseline: str | None = None
    bandwidth: float | None = None
    synthetic: str | None = None
    load: float | None = None


@dataclass(frozen=True)
class Hindsight:
    """The speed of ``contender`` ("auto") over that of ``best``, the fastest of the fixed choices."""

    contender: str
    best: str
    ratio: RatioInterval


@dataclass(frozen=True)
class Report:
    """All measured ``answers``; ``ended_early`` is a sentence that says why some are missing.

    ``rows`` has the seconds of a forward by level and number of rows, ``starts`` the cold and the warm start; both are
    empty if they were not measured.
    """

    setup: Setup
    answers: Sequence[AnswerRecord]
    rows: Mapping[str, Mapping[int, Spread]] = field(default_factory=dict)
    starts: Mapping[str, EngineStart] = field(default_factory=dict)
    ended_early: str | None = None

    @cached_property
    def baseline(self) -> str:
        """The contender that ratios refer to: the one asked for, else the faster plain decoding, else the first one."""
        if self.setup.baseline is not None:
            return self.setup.baseline
        first, *_ = self.setup.contenders
        plain = [each.name for each in self.setup.contenders if each.is_plain and each.kernels == first.kernels]
        speeds = {row.contender: row.tokens_per_second or 0.0 for row in self._rows_of(plain, first.name)}
        return max(speeds, key=lambda name: speeds[name]) if first.is_plain and speeds else first.name

    @cached_property
    def summaries(self) -> list[Summary]:
        """A summary over all prompts for every contender that has an answer."""
        return list(self._rows_of([each.name for each in self.setup.contenders], self.baseline))

    @cached_property
    def plain_step_seconds(self) -> float | None:
        """Mean seconds of a whole step of the baseline; None if that is not plain decoding."""
        is_plain = any(each.is_plain for each in self.setup.contenders if each.name == self.baseline)
        rows = (row.step_seconds for row in self.summaries if row.contender == self.baseline)
        return next(rows, None) if is_plain else None

    @cached_property
    def categories(self) -> dict[str, list[Summary]]:
        """The summaries for each category, in the order of the prompts; empty if the prompts have no categories."""
        names = list(dict.fromkeys(prompt.category for prompt in self.setup.prompts))
        if names == [None]:
            return {}
        everyone = [each.name for each in self.setup.contenders]
        return {name or OTHER: list(self._rows_of(everyone, self.baseline, name or OTHER)) for name in names}

    @cached_property
    def hindsight(self) -> dict[str, Hindsight]:
        """The comparison of "auto" with the best fixed choice, for all prompts and by category.

        Empty if either of them was not measured.
        """
        names = {each.name: each.is_fixed for each in self.setup.contenders}
        auto = next((each.name for each in self.setup.contenders if each.is_auto), None)
        found = {}
        for group, rows in {ALL: self.summaries, **self.categories}.items():
            fixed = {row.contender: row.ratio.value for row in rows if names[row.contender] and row.ratio}
            if auto is not None and fixed:
                best = max(fixed, key=lambda name: fixed[name])
                for row in self._rows_of([auto], best, None if group == ALL else group):
                    if row.ratio is not None:
                        found[group] = Hindsight(auto, best, row.ratio)
        return found

    def label(self, contender: Contender) -> str:
        """What must be said with every number of ``contender``: what was random or simulated; empty if nothing was."""
        manifest = self.setup.manifest
        parts = stand_ins([manifest.target, *(manifest.level(name) for name in levels_of(contender, manifest))])
        if self.setup.synthetic is not None:
            parts.append(f"synthetic acceptance {self.setup.synthetic}")
        return ", ".join(parts)

    def _rows_of(self, names: Sequence[str], baseline: str, category: str | None = None) -> Iterator[Summary]:
        """Summaries of the contenders that have an answer."""
        texts = references(self.setup.contenders)
        all_answers = [answer for answer in self.answers if category in (None, self._category(answer))]
        for contender in self.setup.contenders:
            answers = [answer for answer in all_answers if answer.contender == contender.name]
            if contender.name in names and answers:
                keeps = self.setup.synthetic is None and contender.speculation.keeps_draws
                reference = ComparedWith(baseline, texts[contender.name], keeps)
                yield summarize(
                    answers, all_answers, self.setup.manifest.target, self.label(contender), category, reference
                )

    def _category(self, answer: AnswerRecord) -> str:
        return self.setup.prompts[answer.prompt].category or OTHER

    def to_json(self) -> dict[str, Any]:
        """Every number, unrounded; answers without their tokens."""
        setup = self.setup
        return {
            **facts(self),
            "levels": {
                level.name: describe_level(level) + describe_place(setup.plan, level.name)
                for level in setup.manifest.levels
            },
            "predicted_bytes": setup.plan.total_bytes,
            "rows_seconds": {
                name: {str(count): asdict(value) for count, value in costs.items()} for name, costs in self.rows.items()
            },
            "starts": {name: asdict(start) for name, start in self.starts.items()},
            "contenders": {row.contender: asdict(row) for row in self.summaries},
            "categories": {
                name: {row.contender: asdict(row) for row in rows} for name, rows in self.categories.items()
            },
            "hindsight": {group: asdict(each) for group, each in self.hindsight.items()},
            "answers": [_answer(answer, setup.prompts[answer.prompt]) for answer in self.answers],
        }


def with_rows(
    report: Report, models: Mapping[str, OrtModel], counts: Sequence[int]
) -> tuple[Report, BaseException | None]:
    """``report`` with the cost of forwards of ``counts`` rows for every model, and the error that ended this early."""
    rows: dict[str, Mapping[int, Spread]] = {}
    try:
        for name, model in models.items() if counts else ():
            rows[name] = measure_rows(model, counts)
    except BaseException as error:  # the answers must not be lost with it
        return replace(report, rows=rows, ended_early=f"{why_ended(error)} while forwards were timed"), error
    return replace(report, rows=rows), None


def why_ended(error: BaseException) -> str:
    """The beginning of a sentence that says why a measurement ended."""
    is_interrupt = isinstance(error, KeyboardInterrupt)
    return "interrupted" if is_interrupt else f"ended by an error ({error or type(error).__name__})"


def facts(report: Report) -> dict[str, Any]:
    """The facts that are the same for every row."""
    setup = report.setup
    return {
        "command": setup.command,
        "ended_early": report.ended_early,
        "bundle": setup.manifest.name,
        "device": describe_device(),
        "versions": versions(),
        "date": date.today().isoformat(),
        "load_before": setup.load,
        "kernels": list(setup.kernels),
        "threads": setup.plan.threads,
        "bandwidth_bytes_per_second": setup.bandwidth,
        "prompts_from": setup.prompts_from,
        "repeats": setup.repeats,
        "max_new_tokens": setup.max_new_tokens,
        "temperature": setup.sampling.temperature,
        "seed": setup.sampling.seed,
        "sampling": asdict(setup.sampling),
        "synthetic_acceptance": setup.synthetic,
        "baseline": report.baseline,
    }


def _answer(answer: AnswerRecord, prompt: BenchPrompt) -> dict[str, Any]:
    return {
        "contender": answer.contender,
        "prompt": answer.prompt,
        "category": prompt.category,
        "repeat": answer.repeat,
        "tokens": len(answer.tokens),
        "steps": len(answer.steps),
        "tokens_per_second": answer.tokens_per_second,
        "first_token_seconds": answer.first_token_seconds,
        "seconds": answer.seconds,
        "predicted": answer.predicted,
    }
