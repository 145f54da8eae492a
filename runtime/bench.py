"""Measures decoding: contenders take turns on the same prompts in one process, so that a slow minute hits them all.

A contender is plain decoding of one row a step (``plain``), plain decoding at the width that agrees bit for bit with
wider steps (``plain-safe``), or a drafter with a shape and a size (``suffix-chain7``, ``NAME-tree8``), with kernels in
front where they are compared (``native:NAME-chain6``, ``portable:plain``). The drafter ``perfect`` knows the answers of
plain decoding and costs nothing: what it reaches is the ceiling. Prompts are in the KV cache before the clock of a step
starts: these are speeds of decoding, not of reading prompts.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from export.manifest import PocketspecError
from memory.plan import Shape
from runtime.decode import Step
from runtime.devices import any_width
from runtime.drafters.replay import ReplayDrafter
from runtime.engine import Engine
from runtime.kernels.choice import Wanted
from runtime.kernels.warming import evict, resident_share
from runtime.model import OrtModel
from runtime.speculation import PLAIN, Speculation
from runtime.stop import StopRule

PERFECT = "perfect"
SEPARATOR = "<|endoftext|>"
# Rows of KV cache behind which the cost of rows is measured: a conversation, not an empty cache.
_PAST_ROWS = 128
_FORWARDS = 15
_COMPARED: tuple[Wanted, ...] = ("native", "portable")


@dataclass(frozen=True)
class Contender:
    """One way to decode. ``single_rows``: run one row a step where the engine would pad it.

    ``kernels`` None: those of the command.
    """

    name: str
    speculation: Speculation
    single_rows: bool = False
    kernels: Wanted | None = None


@dataclass(frozen=True)
class Run:
    """One contender over all prompts once. Times in seconds, summed over the steps; ``overhead_seconds`` is the median
    of what one step takes outside ONNX Runtime."""

    tokens: int
    steps: int
    drafted: int
    accepted: int
    draft_seconds: float
    target_seconds: float
    step_seconds: float
    overhead_seconds: float
    answers: tuple[tuple[int, ...], ...]

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of the steps."""
        return self.tokens / self.step_seconds


@dataclass(frozen=True)
class Spread:
    """Median and range over the repeats."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of ``values``."""
    return Spread(statistics.median(values), min(values), max(values))


def parse_contender(text: str) -> Contender:
    """A contender from its name; PocketspecError says how names are made."""
    kernels: Wanted | None = None
    way = text
    for kind in _COMPARED:
        if text.startswith(f"{kind}:"):
            kernels, way = kind, text.removeprefix(f"{kind}:")
    if way in ("plain", "plain-safe"):
        return Contender(text, PLAIN, way == "plain", kernels)
    match = re.fullmatch(r"([^:]+)-(chain|tree)(\d+)", way)
    if not match:
        raise PocketspecError(
            f"no contender {text!r}; write plain, plain-safe, or a drafter with shape and size such as suffix-chain7,"
            " with native: or portable: in front to compare kernels"
        )
    shape: Shape = "tree" if match[2] == "tree" else "chain"
    return Contender(text, Speculation(match[1], int(match[3]), shape), kernels=kernels)


def references(contenders: Sequence[Contender]) -> dict[str, str]:
    """For every contender the one whose answers its own must equal: plain decoding with the same kernels.

    At the safe width if that is there, else of one row, else the first contender with those kernels.
    """
    found = {}
    for contender in contenders:
        same = [other for other in contenders if other.kernels == contender.kernels]
        plain = [other for other in same if other.speculation == PLAIN]
        found[contender.name] = next((other for other in plain if not other.single_rows), [*plain, *same][0]).name
    return found


def read_prompts(path: Path, count: int | None) -> list[str]:
    """Prompts from a file: JSON lines with ``prompt`` or ``turns``, texts between ``<|endoftext|>``, or plain lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PocketspecError(f"cannot read prompts from {path}: {error}") from None
    if path.suffix == ".jsonl":
        prompts = [_json_prompt(line, path, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        prompts = [part.strip() for part in (text.split(SEPARATOR) if SEPARATOR in text else text.splitlines())]
    prompts = [prompt for prompt in prompts if prompt][:count]
    if not prompts:
        raise PocketspecError(f"{path} has no prompts")
    return prompts


def _json_prompt(line: str, path: Path, number: int) -> str:
    try:
        record = json.loads(line)
        prompt = record["prompt"] if "prompt" in record else record["turns"][0]
    except (ValueError, KeyError, TypeError, IndexError):
        raise PocketspecError(f"{path}, line {number}: not a JSON object with 'prompt' or 'turns'") from None
    return str(prompt)


class Bench:
    """Runs contenders on engines; every answer has at most ``max_new_tokens``, fewer where an end token comes.

    ``engines`` has one for every kernels that a contender asks for.
    """

    def __init__(
        self, engines: Mapping[Wanted | None, Engine], prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> None:
        self._engines, self._prompts, self._max_new_tokens = engines, prompts, max_new_tokens

    def measure(
        self, contenders: Sequence[Contender], repeats: int, report: Callable[[str], None] = lambda line: None
    ) -> dict[str, list[Run]]:
        """Every contender ``repeats`` times, taking turns, each time another one first. A first answer warms up."""
        self._teach(contenders)
        for contender in contenders:
            self._run(contender, self._prompts[:1])
        runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
        for repeat in range(repeats):
            first = repeat % len(contenders)
            for contender in [*contenders[first:], *contenders[:first]]:
                run = self._run(contender, self._prompts)
                runs[contender.name].append(run)
                report(f"repeat {repeat + 1}: {contender.name} {run.tokens_per_second:.1f} tokens/s")
        return runs

    def _teach(self, contenders: Sequence[Contender]) -> None:
        """Shows plain decoding's answers to perfect drafters."""
        for kernels in {contender.kernels for contender in contenders if contender.speculation.drafter == PERFECT}:
            drafter = ReplayDrafter(PERFECT)
            answers = self._run(Contender("plain-safe", PLAIN, kernels=kernels), self._prompts).answers
            for prompt, answer in zip(self._prompts, answers, strict=True):
                drafter.learn([*prompt, *answer])
            self._engines[kernels].add_drafter(drafter)

    def _run(self, contender: Contender, prompts: Sequence[Sequence[int]]) -> Run:
        engine = self._engines[contender.kernels]
        target, safe = engine.target, engine.target.widths
        target.widths = any_width(target.max_rows) if contender.single_rows else safe
        steps: list[Step] = []
        answers: list[tuple[int, ...]] = []
        overheads: list[float] = []
        try:
            for prompt in prompts:
                answer = list(self._answer(engine, prompt, contender.speculation))
                steps += [step for step, _ in answer]
                overheads += [overhead for _, overhead in answer]
                answers.append(tuple(token for step, _ in answer for token in step.tokens))
        finally:
            target.widths = safe
        return Run(
            tokens=sum(len(step.tokens) for step in steps),
            steps=len(steps),
            drafted=sum(step.num_drafted for step in steps),
            accepted=sum(step.num_accepted for step in steps),
            draft_seconds=sum(step.draft_seconds for step in steps),
            target_seconds=sum(step.target_seconds for step in steps),
            step_seconds=sum(step.seconds for step in steps),
            overhead_seconds=statistics.median(overheads),
            answers=tuple(answers),
        )

    def _answer(self, engine: Engine, prompt: Sequence[int], speculation: Speculation) -> Iterator[tuple[Step, float]]:
        """The steps of one answer, each with its seconds outside ONNX Runtime. A step thrown away reads the prompt."""
        next(engine.steps(prompt, stop=StopRule(), speculation=speculation))
        eos = engine.manifest.target.vocabulary.eos_token_ids
        rule = StopRule(eos=eos, max_new_tokens=self._max_new_tokens)
        before = _session_seconds(engine)
        for step in engine.steps(prompt, stop=rule, speculation=speculation):
            now = _session_seconds(engine)
            yield step, step.seconds - (now - before)
            before = now


def _session_seconds(engine: Engine) -> float:
    return sum(model.session_seconds for model in (engine.target, *engine.drafters.values()))


@dataclass(frozen=True)
class Start:
    """How an engine starts: the share of its mapped weights that was in memory, and seconds to open it and from there
    to the first token of a prompt."""

    resident: float
    open_seconds: float
    first_token_seconds: float


def measure_start(open_engine: Callable[[], Engine], prompt: Sequence[int], files: Sequence[Path], cold: bool) -> Start:
    """Opens an engine for one token. ``cold``: after asking the system to drop ``files`` from memory."""
    if cold:
        for file in files:
            evict(file)
    resident = statistics.fmean([resident_share(file) for file in files]) if files else 1.0
    start = perf_counter()
    with open_engine() as engine:
        opened = perf_counter()
        next(engine.steps(prompt, stop=StopRule()))
        return Start(resident, opened - start, perf_counter() - opened)


def measure_rows(model: OrtModel, rows: Sequence[int]) -> dict[int, Spread]:
    """Seconds of a forward of so many rows behind 128 rows of cache, not padded. The cache is left empty."""
    widths, model.widths = model.widths, any_width(model.max_rows)
    past = min(_PAST_ROWS, model.cache.capacity - model.max_rows)
    times: dict[int, list[float]] = {count: [] for count in rows if count <= model.max_rows}
    try:
        model.cache.rollback(0)
        model.prefill([0] * past)
        for turn in range(_FORWARDS + 1):
            for count, seconds in times.items():
                start = perf_counter()
                model.forward([0] * count)
                if turn:  # the first of each warms up
                    seconds.append(perf_counter() - start)
                model.cache.rollback(past)
    finally:
        model.cache.rollback(0)
        model.widths = widths
    return {count: spread(seconds) for count, seconds in times.items()}
