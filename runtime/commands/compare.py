"""``python -m runtime compare``: one answer without and one with speculation."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runtime.commands import options as shared
from runtime.commands.generate import make_prompt, read_prompt

if TYPE_CHECKING:
    from runtime.engine import TextChunk

_DIFFERENT = 1


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
    """Shows both answers and whether they are the same; exit code 1 if they differ where they must not."""
    from runtime.speculation import PLAIN

    sampling, speculation = shared.make_sampling(options), shared.make_speculation(options)
    shared.tell_suggestion(options)
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
        plain = _answer("without speculation", engine.generate(prompt, speculation=PLAIN, **settings))
        fast = _answer("with speculation", engine.generate(prompt, speculation=speculation, **settings))
        exact = engine.is_exact(speculation)
    same = _tokens(plain) == _tokens(fast)
    gain = fast[-1].stats.decode_tokens_per_second / plain[-1].stats.decode_tokens_per_second
    verdict = "identical text" if same else "DIFFERENT text" if speculation.keeps_draws else "another draw of one law"
    print(f"== {verdict}, {gain:.2f} x the tokens/s of plain decoding")
    return 0 if same or not exact or not speculation.keeps_draws else _DIFFERENT


def _answer(title: str, answer: Iterator[TextChunk]) -> list[TextChunk]:
    print(f"== {title}")
    chunks = []
    for chunk in answer:
        chunks.append(chunk)
        print(chunk.text, end="", flush=True)
    print(f"\n-- {chunks[-1].stats.line()}\n")
    return chunks


def _tokens(chunks: list[TextChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.step.tokens]
