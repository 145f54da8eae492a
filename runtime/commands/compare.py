"""``python -m runtime compare``: one answer without and one with speculation, and how they compare."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from memory.size import show_bytes
from runtime.commands import options as shared
from runtime.commands.generate import make_prompt, read_prompt

if TYPE_CHECKING:
    from memory.plan import Plan
    from runtime.decoding.stats import GenerationStats
    from runtime.engine import TextChunk

_DIFFERENT = 1
# Two runs of the same work may differ by this share, so smaller differences in speed are not reported. A heuristic.
_NOISE = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; -: read standard input")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    shared.add_template_arguments(parser)
    shared.add_speculation(parser)
    shared.add_sampling(parser)


def run(options: argparse.Namespace) -> int:
    """Shows both answers and whether they are the same; exit code 1 if they differ but must not."""
    from runtime.speculation.request import PLAIN

    sampling, speculation = shared.make_sampling(options), shared.make_speculation(options)
    shared.show_suggestion(options)
    inputs = shared.make_template_inputs(options)
    settings = {
        "sampling": sampling,
        "max_new_tokens": options.max_new_tokens,
        "stop": options.stop,
        "raw": options.raw,
        "template_arguments": inputs.arguments,
        "tools": inputs.tools,
        "documents": inputs.documents,
    }
    text = read_prompt(options.prompt, None)
    with shared.open_for(options, speculation) as engine:
        prompt = make_prompt(engine, text, options.system, options.raw)
        print(f"== prompt\n{text}\n")
        plain = _answer("without speculation", engine.generate(prompt, speculation=PLAIN, **settings))
        fast = _answer("with speculation", engine.generate(prompt, speculation=speculation, **settings))
        exact, plan = engine.is_exact(speculation), engine.plan
    same = _tokens(plain) == _tokens(fast)
    before, after = plain[-1].stats, fast[-1].stats
    print(f"== {_text_line(same, speculation.keeps_draws, before)}")
    print(f"== {_speed_line(before, after)}")
    print(f"== {_memory_line(plan, after)}")
    return 0 if same or not exact or not speculation.keeps_draws else _DIFFERENT


def _text_line(same: bool, keeps_draws: bool, stats: GenerationStats) -> str:
    if same:
        return f"exact: identical text with and without speculation, all {stats.tokens} tokens"
    return "DIFFERENT text" if keeps_draws else "another draw of one law, so another text"


def _speed_line(before: GenerationStats, after: GenerationStats) -> str:
    """The speed of speculation against plain decoding, slower speed included."""
    gain = after.decode_tokens_per_second / before.decode_tokens_per_second
    word = "faster" if gain > 1 + _NOISE else "slower" if gain < 1 - _NOISE else "as fast"
    reason = "" if gain >= 1 - _NOISE else "; drafts did not pay for this text on this machine"
    return (
        f"{word}: {gain:.2f} x the tokens/s of plain decoding ({after.decode_tokens_per_second:,.0f} against"
        f" {before.decode_tokens_per_second:,.0f}), {after.tokens_per_step:.2f} tokens a step{reason}"
    )


def _memory_line(plan: Plan, stats: GenerationStats) -> str:
    """The memory of the process at the end, beside the plan."""
    planned = f"{show_bytes(plan.anonymous_bytes)} planned and a margin of {show_bytes(plan.margin_bytes)}"
    if stats.memory is None:
        return f"memory: {planned}; this system does not tell what a process has"
    held = stats.memory.anonymous_bytes
    word = "within the plan" if held <= plan.anonymous_bytes + plan.margin_bytes else "BEYOND the plan"
    return f"{word}: {show_bytes(held)} of memory, {planned}"


def _answer(title: str, answer: Iterator[TextChunk]) -> list[TextChunk]:
    print(f"== {title}")
    chunks = []
    for chunk in answer:
        chunks.append(chunk)
        shared.show_text(chunk.text)
    print(f"\n-- {chunks[-1].stats.line()}\n")
    return chunks


def _tokens(chunks: list[TextChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.step.tokens]
