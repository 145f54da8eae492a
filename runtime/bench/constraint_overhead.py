"""What a constraint adds to a step: ``python -m runtime.bench.constraint_overhead TOKENIZER_FOLDER``.

No model runs. Answers are drawn from what a JSON schema allows; every step does what the decoding loop does for the
constraint: asks what is forced, masks the rows, looks for the end, and commits. Seconds are those of the processor, so
other work on the machine counts little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import thread_time

import numpy as np

from memory.machine import measured_on
from memory.meter import PeakMeter, read_memory
from runtime.arrays import FloatArray
from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.matcher import Matcher
from runtime.constraints.request import JsonSchema
from runtime.decoding.constrained import allowed_logits
from runtime.decoding.context import Context
from runtime.decoding.sampling import SamplingParams
from runtime.process.allocator import give_back
from runtime.text.tokenizer import Tokenizer

_STEP_SECONDS = 0.02
_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string", "maxLength": 30}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
_SCHEMA = {"type": "array", "items": _PERSON, "minItems": 3, "maxItems": 6}


def draw_answer(matcher: Matcher, seed: int, most: int) -> list[int]:
    """At most ``most`` tokens, each drawn from what may follow."""
    rng, tokens = np.random.default_rng(seed), list[int]()
    while len(tokens) < most and matcher.end(tokens) is None:
        tokens.append(int(rng.choice(np.flatnonzero(np.unpackbits(matcher.mask(tokens), bitorder="little")))))
    return tokens


def time_steps(matcher: Matcher, answer: Sequence[int], rows: int, logits: FloatArray, greedy: bool) -> list[float]:
    """Seconds of the constraint in every step of ``answer``, if steps of ``rows`` rows commit ``rows`` tokens.

    Greedy rows find the model's own choice allowed; rows that are drawn from are masked.
    """
    context, seconds = Context(len(answer) + 1, SamplingParams()), list[float]()
    context.constraint = matcher
    for place in range(0, len(answer) - rows + 1, rows):
        path = answer[place : place + rows]
        start = thread_time()
        matcher.forced()
        for row in range(rows):
            if not greedy or not matcher.allows(path[:row], path[row]):
                allowed_logits(logits, context, path[:row])
        matcher.end(path)
        context.append(path)
        seconds.append(thread_time() - start)
    return seconds


def report(folder: Path, size: int, answers: int, end: str) -> list[str]:
    """The lines of the table."""
    tokenizer = Tokenizer.open(folder)
    before = _anonymous()
    compiler = ConstraintCompiler(tokenizer, size, [tokenizer.special_tokens[end]])
    with PeakMeter() as meter, meter.phase("constrained answers"):
        start = thread_time()
        compiler.matcher(JsonSchema(_SCHEMA))
        built, held = thread_time() - start, _anonymous() - before
        texts = [draw_answer(compiler.matcher(JsonSchema(_SCHEMA)), seed, 128) for seed in range(answers)]
    most = max((phase.peak.anonymous_bytes - before for phase in meter.phases), default=0)
    logits = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    lines = [
        f"{measured_on(('llguidance', 'numpy'))}; {size:,} logits, {answers} answers",
        f"trie and constraint: {built:.2f} s once, {held / 1e6:.1f} MB held, {most / 1e6:.1f} MB at most with answers",
        "",
        f"| rows | mean ms | median ms | 99% ms | mean share of {_STEP_SECONDS * 1e3:.0f} ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for rows, greedy in ((1, True), (8, True), (1, False), (8, False)):
        runs = [time_steps(compiler.matcher(JsonSchema(_SCHEMA)), text, rows, logits, greedy) for text in texts]
        seconds = np.array([each for run in runs for each in run])
        times = " | ".join(
            f"{each * 1e3:.2f}" for each in (seconds.mean(), np.median(seconds), np.quantile(seconds, 0.99))
        )
        kind = "greedy" if greedy else "sampled"
        lines.append(f"| {rows}, {kind} | {times} | {seconds.mean() / _STEP_SECONDS:.1%} |")
    return lines


def _anonymous() -> int:
    give_back()
    memory = read_memory()
    return memory.anonymous_bytes if memory is not None else 0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with tokenizer.json")
    parser.add_argument("--size", type=int, default=151_936, help="logits of the model (default: 151936)")
    parser.add_argument("--end", default="<|im_end|>", help="the end token's text")
    parser.add_argument("--answers", type=int, default=20, help="answers drawn")
    options = parser.parse_args()
    print("\n".join(report(options.folder, options.size, options.answers, options.end)))


if __name__ == "__main__":
    main()
