"""Summarizes the answers of one contender, over all prompts or those of one category."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from export.manifest import Level
from memory.meter import Memory
from runtime.bench.acceptance import LevelAcceptance, measure_acceptance
from runtime.bench.intervals import RatioInterval, mean_ratio
from runtime.bench.measure import AnswerRecord
from runtime.decoding.draft import Step


@dataclass(frozen=True)
class Summary:
    """One row of the table; ``category`` None: over all prompts.

    - Speeds (tokens/s) and seconds of an answer are medians over prompts of medians over repeats.
    - ``ratio`` and ``end_to_end_ratio`` compare speeds with the baseline, prompt by prompt.
    - Seconds of a step are medians without the first step of an answer, which reads the prompt; so is
      ``read_bytes_per_second``, the bandwidth at which the target's weights are read.
    - ``step_seconds``: the mean of a whole step, as ``tokens_per_step`` is of its tokens.
    - ``choices``: the share of steps by name of the pick.
    - ``predicted``: the forecast in tokens/s; ``prediction``: its ratio to the measured speed.
    - ``peak``: the highest bytes of the whole process.
    - ``identical``: how many of ``answers`` equal those of ``reference``; None if they need not.
    """

    contender: str
    label: str
    category: str | None
    prompts: int
    answers: int
    tokens_per_second: float | None
    ratio: RatioInterval | None
    end_to_end_tokens_per_second: float
    end_to_end_ratio: RatioInterval | None
    first_token_seconds: float
    tokens_per_step: float
    step_seconds: float | None
    acceptance: tuple[LevelAcceptance, ...]
    choices: Mapping[str, float]
    draft_seconds_per_step: float | None
    target_seconds_per_step: float | None
    overhead_seconds_per_step: float
    read_bytes_per_second: float | None
    peak: Memory | None
    predicted: float | None
    prediction: RatioInterval | None
    identical: int | None
    reference: str


@dataclass(frozen=True)
class ComparedWith:
    """The contenders to compare with: ``baseline`` for speed, ``text`` for answers.

    ``keeps_text``: whether the answers must be the same.
    """

    baseline: str
    text: str
    keeps_text: bool


def summarize(
    answers: Sequence[AnswerRecord],
    all_answers: Sequence[AnswerRecord],
    target: Level,
    label: str,
    category: str | None,
    reference: ComparedWith,
) -> Summary:
    """Summarizes ``answers`` (one or more) of one contender; ``all_answers`` has those of all contenders."""
    steps = [step for answer in answers for step in answer.steps]
    decoding = [step for answer in answers for step in answer.steps[1:]]
    target_seconds = _median(decoding, lambda step: step.target_seconds)
    weights = target.weight_bytes - target.sparse_bytes
    choices = Counter(step.pick.name for step in steps)
    peaks = [answer.peak for answer in answers if answer.peak is not None]
    return Summary(
        contender=answers[0].contender,
        label=label,
        category=category,
        prompts=len({answer.prompt for answer in answers}),
        answers=len(answers),
        tokens_per_second=_median_over_prompts(answers, lambda answer: answer.tokens_per_second),
        ratio=_ratio(answers, all_answers, reference.baseline, lambda answer: answer.tokens_per_second),
        end_to_end_tokens_per_second=_median_over_prompts(answers, _end_to_end) or 0.0,
        end_to_end_ratio=_ratio(answers, all_answers, reference.baseline, _end_to_end),
        first_token_seconds=_median_over_prompts(answers, lambda answer: answer.first_token_seconds) or 0.0,
        tokens_per_step=sum(len(step.tokens) for step in steps) / len(steps),
        step_seconds=statistics.mean(step.seconds for step in decoding) if decoding else None,
        acceptance=tuple(measure_acceptance(steps, target.name)),
        choices={name: count / len(steps) for name, count in choices.most_common()},
        draft_seconds_per_step=_median(decoding, lambda step: step.draft_seconds),
        target_seconds_per_step=target_seconds,
        overhead_seconds_per_step=statistics.median(answer.overhead_seconds for answer in answers),
        read_bytes_per_second=weights / target_seconds if target_seconds else None,
        peak=Memory(max(each.anonymous_bytes for each in peaks), max(each.file_bytes for each in peaks))
        if peaks
        else None,
        predicted=_median_over_prompts(answers, lambda answer: answer.predicted),
        prediction=_prediction(answers),
        identical=_identical(answers, all_answers, reference.text) if reference.keeps_text else None,
        reference=reference.text,
    )


def _end_to_end(answer: AnswerRecord) -> float:
    return answer.end_to_end_tokens_per_second


def _median(steps: Sequence[Step], value: Callable[[Step], float]) -> float | None:
    return statistics.median(map(value, steps)) if steps else None


def _median_over_prompts(
    answers: Sequence[AnswerRecord], value: Callable[[AnswerRecord], float | None]
) -> float | None:
    """The median over prompts of medians over repeats; answers without the value are left out."""
    found: dict[int, list[float]] = {}
    for answer in answers:
        number = value(answer)
        if number is not None:
            found.setdefault(answer.prompt, []).append(number)
    return statistics.median(map(statistics.median, found.values())) if found else None


def _ratio(
    answers: Sequence[AnswerRecord],
    all_answers: Sequence[AnswerRecord],
    baseline: str,
    value: Callable[[AnswerRecord], float | None],
) -> RatioInterval | None:
    """Paired ratios: each answer over the baseline's to the same prompt in the same repeat."""
    base = {(other.prompt, other.repeat): value(other) for other in all_answers if other.contender == baseline}
    ratios: dict[int, list[float]] = {}
    for answer in answers:
        ours, theirs = value(answer), base.get((answer.prompt, answer.repeat))
        if ours is not None and theirs is not None:
            ratios.setdefault(answer.prompt, []).append(ours / theirs)
    return mean_ratio(list(ratios.values()))


def _prediction(answers: Sequence[AnswerRecord]) -> RatioInterval | None:
    ratios: dict[int, list[float]] = {}
    for answer in answers:
        if answer.predicted is not None and answer.tokens_per_second is not None:
            ratios.setdefault(answer.prompt, []).append(answer.predicted / answer.tokens_per_second)
    return mean_ratio(list(ratios.values()))


def _identical(answers: Sequence[AnswerRecord], all_answers: Sequence[AnswerRecord], reference: str) -> int:
    """The number of answers that equal the reference's first answer to the same prompt."""
    expected: dict[int, tuple[int, ...]] = {}
    for other in all_answers:
        if other.contender == reference:
            expected.setdefault(other.prompt, other.tokens)
    return sum(answer.tokens == expected.get(answer.prompt) for answer in answers)
