"""Tokens a second of the Kotlin engine beside Python's: ``python -m tests.android_demo.speed BUNDLE``.

Both have the bundle open with one plan and one kind of kernels, and answer in turns, so whatever else the machine does
hits both. Printed are the ratio over prompts with its interval, without drafts and with each engine's own scheduler,
and what a step of the Kotlin engine takes outside of ONNX Runtime. The bundle needs a table of plans.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

from android_demo.check.junit import jvm, prepare_tests
from android_demo.check.lock import one_build
from android_demo.check.native import environment
from android_demo.check.places import tool_folders
from android_demo.check.tools import MissingToolError, Toolbox
from memory.choices import Request
from runtime.bench.intervals import mean_ratio
from runtime.engine import Engine
from runtime.kernels.build import LIBRARY
from runtime.speculation.request import Speculation
from tests.android_demo.golden import TEXTS

_PROGRAM = "dev.pocketspec.SpeedProgramKt"
_MODES = {"plain": Speculation("none"), "drafted": Speculation()}
# Of the JVM's compilers: what they compile late is slow until then.
_WARMING = 2


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
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        return Timed(**self._read())

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError("the JVM ended; what it said stands above")
        read: dict[str, Any] = json.loads(line)
        return read


@contextmanager
def kotlin_engine(bundle: Path, context: int) -> Iterator[KotlinEngine]:
    """Starts the JVM; MissingToolError if it cannot be."""
    with one_build():
        compiled = prepare_tests(Toolbox(tool_folders()))
    words = [*jvm(compiled), _PROGRAM, str(bundle), str(LIBRARY), str(context)]
    with subprocess.Popen(
        words, env=environment(compiled.tools), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
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


def compare(bundle: Path, prompts: Sequence[str], repeats: int, tokens: int, context: int) -> list[str]:
    """The lines to print."""
    lines = []
    with kotlin_engine(bundle, context) as kotlin, python_engine(bundle, kotlin.plan) as engine:
        lines.append(f"{bundle.name}: {json.dumps(kotlin.plan)}, {len(prompts)} prompts x {repeats}")
        for mode in _MODES:
            pairs: list[list[tuple[Timed, Timed]]] = [[] for _ in prompts]
            for repeat in range(_WARMING + repeats):
                for prompt, timed in zip(prompts, pairs, strict=True):
                    pair = (kotlin.answer(prompt, mode, tokens), python_answer(engine, prompt, mode, tokens))
                    if pair[0].text != pair[1].text:
                        raise RuntimeError(f"other texts: {pair}")
                    if repeat >= _WARMING:
                        timed.append(pair)
            lines.append(f"{mode}: {_shown(pairs)}")
    return lines


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


def main(words: Sequence[str] | None = None) -> int:
    """Prints the comparison."""
    parser = argparse.ArgumentParser("python -m tests.android_demo.speed", description=__doc__.partition(":")[0])
    parser.add_argument("bundle", type=Path, help="with a table of plans, written by python -m memory plans")
    parser.add_argument("--prompts", type=int, default=8, help="how many, at most 20 (default: 8)")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is answered and counted (default: 3)")
    parser.add_argument("--tokens", type=int, default=100, help="most tokens of an answer (default: 100)")
    parser.add_argument("--context", type=int, default=512, help="of the plan, in tokens (default: 512)")
    chosen = parser.parse_args(words)
    try:
        lines = compare(chosen.bundle, TEXTS[: chosen.prompts], chosen.repeat, chosen.tokens, chosen.context)
    except MissingToolError as missing:
        print(missing, file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
