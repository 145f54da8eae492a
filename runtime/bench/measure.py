"""Measures contenders in turns on every prompt, in one process, so that a slow minute affects all of them.

Every answer begins with empty KV caches. Its first token comes after all levels that it needs have read the prompt, so
the time after that token is decoding alone. Each answer is one record, and all results are computed from records.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from export.manifest import levels_in_parallel
from memory.meter import Memory, PeakMeter
from runtime.bench.contenders import PERFECT, Contender
from runtime.bench.prediction import Replay
from runtime.calibration import costs_of
from runtime.constraints.request import Constrained
from runtime.decoding.draft import Step
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.oracle import OracleDrafter
from runtime.engine import Engine
from runtime.kernels.selection import Wanted
from runtime.models.exact_widths import any_width
from runtime.speculation.request import PLAIN

# Seconds between samples of memory, each of which takes Python's lock. The system's high-water mark has shorter peaks.
_SAMPLE_SECONDS = 0.05
# Tokens of an answer that warms up: enough for every graph to run at every width.
_WARM_TOKENS = 8


# Simulated chances of acceptance by depth: the target's, and the intermediate's if they are given (simulated.py).
Chances = tuple[Sequence[float], Sequence[float] | None]


@dataclass(frozen=True)
class AnswerRecord:
    """One answer of ``contender`` to the prompt of number ``prompt``.

    - ``first_token_seconds`` and ``seconds``: wall-clock time from the call to the end of the first and the last step.
    - ``overhead_seconds``: the median time of a step outside ONNX Runtime, without the first step.
    - ``peak``: the highest bytes of the process during the answer; None where the system does not report them.
    - ``predicted``: the tokens/s that the cost model forecasts; None if it has no forecast.
    """

    contender: str
    prompt: int
    repeat: int
    steps: tuple[Step, ...]
    first_token_seconds: float
    seconds: float
    overhead_seconds: float = 0.0
    peak: Memory | None = None
    predicted: float | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the answer."""
        return tuple(token for step in self.steps for token in step.tokens)

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of decoding: the tokens after the first step and their time; None if there are none."""
        count = sum(len(step.tokens) for step in self.steps[1:])
        return count / (self.seconds - self.first_token_seconds) if count else None

    @property
    def end_to_end_tokens_per_second(self) -> float:
        """Speed from the call on, reading the prompt included."""
        return len(self.tokens) / self.seconds


@dataclass(frozen=True)
class Task:
    """What every contender is given: the tokens of the prompts, and ``max_new_tokens`` for every answer.

    ``simulated``: acceptance is simulated, so end tokens do not end an answer, and random numbers differ by prompt and
    repeat. ``constraint``: what every answer must be.
    """

    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    simulated: bool = False
    constraint: Constrained | None = None

    def sampling_of(self, prompt: int, repeat: int) -> SamplingParams:
        """The sampling for one prompt and repeat; it is the same for all contenders."""
        offset = prompt + repeat * len(self.prompts) if self.simulated else 0
        return replace(self.sampling, seed=self.sampling.seed + offset)


class Bench:
    """Runs contenders on ``engines``, one for each kind of kernels.

    ``chances`` has the simulated chances of acceptance by contender.
    """

    def __init__(
        self, engines: Mapping[Wanted | None, Engine], task: Task, chances: Mapping[str, Chances | None] | None = None
    ) -> None:
        self._engines, self._task, self._chances = engines, task, chances or {}
        self._simulated: dict[Wanted | None, Chances] = {}
        self._replays: dict[str, Replay] = {}

    def run(self, contenders: Sequence[Contender], repeats: int) -> Iterator[AnswerRecord]:
        """Yields every answer as soon as it is complete, prompt by prompt; contenders take turns in being the first.

        Before that, each contender gives a short answer to the first prompt, which warms up and is not yielded.
        """
        self._teach_oracles(contenders)
        self._replays = self._replays_of(contenders)
        warm = replace(self._task, max_new_tokens=min(_WARM_TOKENS, self._task.max_new_tokens))
        with PeakMeter(interval_seconds=_SAMPLE_SECONDS) as meter:
            for contender in contenders:
                self._answer(contender, warm, 0, 0, meter)
            for repeat in range(repeats):
                for prompt in range(len(self._task.prompts)):
                    first = (repeat + prompt) % len(contenders)
                    for contender in [*contenders[first:], *contenders[:first]]:
                        yield self._answer(contender, self._task, prompt, repeat, meter)

    def _teach_oracles(self, contenders: Sequence[Contender]) -> None:
        """Lets oracle drafters learn the answers of plain decoding."""
        for kernels in {contender.kernels for contender in contenders if contender.speculation.drafter == PERFECT}:
            drafter = OracleDrafter(PERFECT)
            plain = Contender("plain-safe", PLAIN, kernels=kernels)
            for number, prompt in enumerate(self._task.prompts):
                drafter.learn([*prompt, *self._answer(plain, self._task, number, 0, PeakMeter()).tokens])
            self._engines[kernels].add_drafter(drafter)

    def _replays_of(self, contenders: Sequence[Contender]) -> dict[str, Replay]:
        """The cost model of every contender; empty if only plain decoding is measured.

        The costs of rows are read from the device cache, or measured now, before anything is timed.
        """
        if all(contender.is_plain for contender in contenders):
            return {}
        costs = {kernels: costs_of(engine, lambda line: None) for kernels, engine in self._engines.items()}
        replays = {}
        for contender in contenders:
            engine = self._engines[contender.kernels]
            widths = any_width(engine.target.max_rows) if contender.single_rows else engine.target.widths
            methods, manifest = engine.decoding_methods(), engine.manifest
            replays[contender.name] = Replay(
                methods, costs[contender.kernels], manifest.target.name, widths.pad, levels_in_parallel(manifest)
            )
        return replays

    def _simulate(self, contender: Contender) -> None:
        """Sets the simulated acceptance if it changes; drafters then lose what they have learned."""
        chances = self._chances.get(contender.name)
        if chances is not None and chances != self._simulated.get(contender.kernels):
            self._engines[contender.kernels].simulate_acceptance(*chances)
            self._simulated[contender.kernels] = chances

    def _answer(self, contender: Contender, task: Task, prompt: int, repeat: int, meter: PeakMeter) -> AnswerRecord:
        engine = self._engines[contender.kernels]
        target, safe = engine.target, engine.target.widths
        target.widths = any_width(target.max_rows) if contender.single_rows else safe
        self._simulate(contender)
        clear_caches(engine)
        eos = () if task.simulated else engine.manifest.target.vocabulary.eos_token_ids
        rule = StopRule(eos=eos, max_new_tokens=task.max_new_tokens)
        steps: list[Step] = []
        overheads: list[float] = []
        first = 0.0
        try:
            with meter.phase(contender.name):
                before, start = _session_seconds(engine), perf_counter()
                sampling, tokens = task.sampling_of(prompt, repeat), task.prompts[prompt]
                answer = engine.steps(
                    tokens,
                    stop=rule,
                    sampling=sampling,
                    speculation=contender.speculation,
                    constraint=task.constraint,
                )
                for step in answer:
                    end, now = perf_counter(), _session_seconds(engine)
                    if steps:  # the first step reads the prompt
                        overheads.append(step.seconds - (now - before))
                    else:
                        first = end - start
                    steps.append(step)
                    before = now
        finally:
            target.widths = safe
        replay = self._replays.get(contender.name)
        context = len(task.prompts[prompt]) + len(steps[0].tokens)
        return AnswerRecord(
            contender=contender.name,
            prompt=prompt,
            repeat=repeat,
            steps=tuple(steps),
            first_token_seconds=first,
            seconds=end - start,
            overhead_seconds=statistics.median(overheads) if overheads else 0.0,
            peak=meter.phases[-1].peak if meter.phases else None,
            predicted=replay.predict(steps[1:], context) if replay else None,
        )


def clear_caches(engine: Engine) -> None:
    """Empties the KV caches of all levels, so that the next prompt is read from its beginning."""
    for model in (engine.target, *engine.drafters.values()):
        model.cache.rollback(0)


def _session_seconds(engine: Engine) -> float:
    return sum(model.session_seconds for model in (engine.target, *engine.drafters.values()))
