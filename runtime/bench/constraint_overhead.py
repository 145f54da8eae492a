"""What a constraint adds to a step: ``python -m runtime.bench.constraint_overhead TOKENIZER_FOLDER``.

No model runs. Answers follow a JSON schema: usual ones, and any that are drawn from all that the schema allows, which
are dearer, since their strings end where no more is allowed. Every step does what the decoding loop does: asks what is
forced, chooses a token in each row, looks for the end, and commits; and the same without a constraint. Seconds are
those of the processor, so other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import thread_time

import numpy as np

from memory.machine import measured_on
from memory.meter import PeakMeter, read_memory
from runtime.arrays import FloatArray
from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.matcher import Matcher
from runtime.constraints.request import JsonSchema
from runtime.decoding.constrained import allowed_distribution, allowed_greedy_token
from runtime.decoding.context import Context
from runtime.decoding.sampling import SamplingParams, passing_row
from runtime.process.allocator import give_back
from runtime.text.tokenizer import Tokenizer

_STEP_SECONDS = 0.02
# A logit above all that are drawn.
_KNOWN = 12.0
_SETTINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=0.8, top_p=0.95),
    SamplingParams(temperature=0.7, top_k=20, top_p=0.8),
)
_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string", "maxLength": 30}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
_SCHEMA = {"type": "array", "items": _PERSON, "minItems": 3, "maxItems": 6}
_NAMES = ("Lily Carter", "Ben Okafor", "Mia Lindqvist", "Tom Alvarez", "Zoe Tanaka", "Sam Brown")
_CITIES = ("Berlin", "New York", "Rio de Janeiro", "Osaka", "Cape Town", "Llanfairpwllgwyngyll")


def usual_answer(tokenizer: Tokenizer, seed: int) -> list[int]:
    """The tokens of an answer as people would write it."""
    rng = np.random.default_rng(seed)
    people = [
        {"name": str(rng.choice(_NAMES)), "age": int(rng.integers(1, 99)), "city": str(rng.choice(_CITIES))}
        for _ in range(rng.integers(3, 7))
    ]
    return tokenizer.encode_behind(json.dumps(people))


def draw_answer(matcher: Matcher, seed: int, most: int) -> list[int]:
    """At most ``most`` tokens, each drawn from what may follow."""
    rng, tokens = np.random.default_rng(seed), list[int]()
    while len(tokens) < most and matcher.end(tokens) is None:
        tokens.append(int(rng.choice(np.flatnonzero(np.unpackbits(matcher.mask(tokens), bitorder="little")))))
    return tokens


def time_steps(
    matcher: Matcher, answer: Sequence[int], rows: int, params: SamplingParams, logits: FloatArray
) -> tuple[list[float], list[float]]:
    """Seconds of every step of ``answer`` that choosing tokens takes, without the constraint and with it.

    A step has ``rows`` rows and commits as many tokens. The model that ``logits`` stand for knows the format: at each
    row, the answer's token is the most probable one.
    """
    free, bound = Context(len(answer) + 1, params), Context(len(answer) + 1, params)
    bound.constraint = matcher
    without, within = list[float](), list[float]()
    for place in range(0, len(answer) - rows + 1, rows):
        path = answer[place : place + rows]
        for context, seconds in ((free, without), (bound, within)):
            start = thread_time()
            if context.constraint is not None:
                matcher.forced()
            for row, token in enumerate(path):
                usual, logits[token] = logits[token], _KNOWN
                _choose(logits, context, path[:row])
                logits[token] = usual
            if context.constraint is not None:
                matcher.end(path)
            context.append(path)
            seconds.append(thread_time() - start)
    return without, within


def _choose(logits: FloatArray, context: Context, path: Sequence[int]) -> int:
    """What acceptance rules do for a row."""
    if context.sampling.temperature == 0:
        return allowed_greedy_token(logits, context, path, ())
    return allowed_distribution(logits, context, path, (), passing_row(len(logits))).draw(0.3)


def report(folder: Path, size: int, answers: int, end: str) -> list[str]:
    """The lines of the table."""
    tokenizer = Tokenizer.open(folder)
    before = _anonymous()
    compiler = ConstraintCompiler(tokenizer, size, [tokenizer.special_tokens[end]])
    with PeakMeter() as meter, meter.phase("constrained answers"):
        start = thread_time()
        compiler.matcher(JsonSchema(_SCHEMA))
        built, held = thread_time() - start, _anonymous() - before
        texts = {
            "usual": [usual_answer(tokenizer, seed) for seed in range(answers)],
            "any": [draw_answer(compiler.matcher(JsonSchema(_SCHEMA)), seed, 128) for seed in range(answers)],
        }
    most = max((phase.peak.anonymous_bytes - before for phase in meter.phases), default=0)
    logits = 2 * np.random.default_rng(0).standard_normal(size).astype(np.float32)
    lines = [
        f"{measured_on(('llguidance', 'numpy'))}; {size:,} logits, {answers} answers",
        f"trie and constraint: {built:.2f} s once, {held / 1e6:.1f} MB held, {most / 1e6:.1f} MB at most with answers",
        "",
        "| answers | rows | sampling | without ms | added ms, mean | median | 99% | mean share of "
        f"{_STEP_SECONDS * 1e3:.0f} ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, rows, params in product(texts, (1, 8), _SETTINGS):
        matcher = compiler.matcher(JsonSchema(_SCHEMA))
        runs = [time_steps(matcher.fork(), text, rows, params, logits) for text in texts[kind]]
        without, within = (np.array([each for run in runs for each in run[place]]) for place in (0, 1))
        added = within - without
        times = (without.mean(), added.mean(), np.median(added), np.quantile(added, 0.99))
        shown = " | ".join(f"{each * 1e3:.2f}" for each in times)
        lines.append(f"| {kind} | {rows} | {_describe(params)} | {shown} | {added.mean() / _STEP_SECONDS:.1%} |")
    return lines


def _describe(params: SamplingParams) -> str:
    named = {name: getattr(params, name) for name in ("temperature", "top_k", "top_p")}
    usual = SamplingParams()
    return ", ".join(f"{name} {value:g}" for name, value in named.items() if value != getattr(usual, name)) or "greedy"


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
