"""Tokens a second of the Kotlin engine beside Python's, of whole answers.

Both have the bundle open with one plan and one kind of kernels, on one thread, and answer in turns, so whatever else
the machine does hits both. What is said is the ratio over prompts with its interval, without drafts and with each
engine's own scheduler, and what a step of the Kotlin engine takes outside of ONNX Runtime; then its native memory
beside two plans. The bundle needs a table of plans.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

from android_demo.check.junit import CompiledTests, jvm
from android_demo.check.memory import ALLOCATOR, native_memory
from android_demo.check.native import environment
from android_demo.check.steps import StepError
from memory.choices import Request
from runtime.bench.intervals import mean_ratio
from runtime.engine import Engine
from runtime.kernels.build import LIBRARY
from runtime.speculation.request import Speculation

# Prompts, some of which repeat themselves.
_THINGS = ("cat", "boat", "garden", "letter", "storm")
_OPENINGS = (
    "Once upon a time there was a {} that nobody wanted.",
    "Tell me about the {}. Then tell me about the {} again.",
    "The {} and the river, the {} and the hill, the {} and",
    "1. A {}\n2. Another {}\n3.",
)
PROMPTS = [text.replace("{}", thing) for thing in _THINGS for text in _OPENINGS]

_PROGRAM = "dev.pocketspec.SpeedProgramKt"
_MODES = {"plain": Speculation("none"), "drafted": Speculation()}
_COUNT, _TOKENS = 8, 100
# Rounds before those that count, in which the JVM compiles, and rounds that count.
_WARMING, _REPEATS = 2, 3
# Budgets whose memory is measured, as shares of the way from the least to the most.
_SHARES = (1.0, 0.3)


@dataclass(frozen=True)
class Timed:
    """One answer: its text, and seconds from the question to its end."""

    text: str
    tokens: int
    steps: int
    seconds: float
    outside_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class KotlinEngine:
    """The engine in a JVM of its own, asked through its input."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self._questions, self._answers = questions, answers
        self.plan = self._read()

    def answer(self, prompt: str, mode: str, tokens: int) -> Timed:
        """Its answer to one message."""
        question = {"prompt": prompt, "speculation": mode != "plain", "max_new_tokens": tokens}
        return Timed(**self._ask(json.dumps(question)))

    def _ask(self, question: str) -> dict[str, Any]:
        self._questions.write(question + "\n")
        self._questions.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise StepError("the JVM ended; what it said stands above")
        read: dict[str, Any] = json.loads(line)
        return read


@contextmanager
def kotlin_engine(compiled: CompiledTests, bundle: Path) -> Iterator[KotlinEngine]:
    """Starts the JVM."""
    machine, *others = jvm(compiled)
    words = [machine, *others, _PROGRAM, str(bundle), str(LIBRARY)]
    pipe, variables = subprocess.PIPE, {**environment(compiled.tools), **ALLOCATOR}
    with subprocess.Popen(words, env=variables, encoding="utf-8", stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield KotlinEngine(process.stdin, process.stdout)
        finally:
            process.stdin.close()


def python_engine(bundle: Path, plan: dict[str, Any]) -> Engine:
    """Python's engine with the sizes of ``plan``, on one thread."""
    names = ("context", "kv_type", "shape", "nodes")
    request = Request(threads=1, drafters=tuple(plan["drafters"]), **{name: plan[name] for name in names})
    return Engine.open(bundle, request, kernels=plan["kernels"])


def python_answer(engine: Engine, prompt: str, mode: str, tokens: int) -> Timed:
    """Python's answer to one message."""
    chunks = list(engine.generate(prompt, max_new_tokens=tokens, speculation=_MODES[mode]))
    stats = chunks[-1].stats
    return Timed("".join(chunk.text for chunk in chunks), stats.tokens, stats.steps, stats.seconds)


def compare(compiled: CompiledTests, bundle: Path) -> Iterator[str]:
    """The lines to print. StepError if the JVM ends, or if texts differ."""
    with kotlin_engine(compiled, bundle) as kotlin, python_engine(bundle, kotlin.plan) as engine:
        yield f"{json.dumps(kotlin.plan)}, {_COUNT} prompts x {_REPEATS}, at most {_TOKENS} tokens"
        for mode in _MODES:
            rounds = [list(_round(kotlin, engine, mode)) for _ in range(_WARMING + _REPEATS)][_WARMING:]
            yield f"{mode}: {_shown(list(zip(*rounds, strict=True)))}"
    for share in _SHARES:
        yield str(native_memory(compiled, bundle, kotlin.plan["context"], share))


def _round(kotlin: KotlinEngine, engine: Engine, mode: str) -> Iterator[tuple[Timed, Timed]]:
    for prompt in PROMPTS[:_COUNT]:
        ours, theirs = kotlin.answer(prompt, mode, _TOKENS), python_answer(engine, prompt, mode, _TOKENS)
        if ours.text != theirs.text:
            raise StepError(f"Kotlin says {ours.text!r} to {prompt!r}, Python {theirs.text!r}")
        yield ours, theirs


def _shown(pairs: Sequence[Sequence[tuple[Timed, Timed]]]) -> str:
    ratio = mean_ratio([[ours.rate / theirs.rate for ours, theirs in timed] for timed in pairs])
    every = [pair for timed in pairs for pair in timed]
    rates = [median(pair[side].rate for pair in every) for side in (0, 1)]
    outside = [1e6 * ours.outside_seconds / (ours.steps - 1) for ours, _ in every if ours.steps > 1]
    per_step = [median(pair[side].tokens / pair[side].steps for pair in every) for side in (0, 1)]
    return (
        f"Kotlin / Python {ratio}; {rates[0]:.0f} and {rates[1]:.0f} tokens/s, {per_step[0]:.2f} and {per_step[1]:.2f}"
        f" tokens a step; outside of ONNX Runtime {median(outside):.0f} microseconds a step (most {max(outside):.0f})"
    )
