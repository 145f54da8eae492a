"""``python -m runtime generate``: one answer, streamed."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.manifest import PocketspecError
from memory.command_line import INTERRUPTED
from memory.streams import shows_everything
from runtime.commands import options as shared
from runtime.commands.session_option import add_session, check_session, kept_session

if TYPE_CHECKING:
    from runtime.context_overflow import Refit
    from runtime.decoding.draft import Step
    from runtime.engine import Engine, TextChunk
    from runtime.text.prompt import Prompt
    from runtime.text.template_data import TemplateInputs

_NO_PROMPT = "no prompt; pass one as the last argument, with --prompt-file, or on standard input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt; - or none: read standard input")
    parser.add_argument("--prompt-file", type=Path, metavar="FILE", help="read the prompt from FILE; -: standard input")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    shared.add_template_arguments(parser)
    shared.add_speculation(parser)
    shared.add_sampling(parser)
    shared.add_constraint(parser)
    parser.add_argument(
        "--when-full",
        choices=("stop", "slide"),
        default="stop",
        help="when the context is full: stop (default), or slide a window that keeps the first tokens",
    )
    add_session(parser)
    shared.add_suffix_store(parser)
    shared.add_explain(parser)
    parser.add_argument("--stats", action="store_true", help="one line of statistics on standard error")
    parser.add_argument("--json", action="store_true", help="one JSON object with text, tokens and statistics")
    parser.add_argument("--verbose", action="store_true", help="the plan, and a line for every step")


def run(options: argparse.Namespace) -> int:
    """Generates; an interrupted answer is kept, with exit code 130."""
    from runtime.constraints.request import cut_notice

    sampling, speculation = shared.make_sampling(options), shared.make_speculation(options)
    constraint = shared.make_constraint(options)
    shared.show_suggestion(options)
    inputs = shared.make_template_inputs(options)
    check_session(options)
    text = read_prompt(options.prompt, options.prompt_file)
    with (
        shared.open_for(options, speculation, constrained=constraint is not None) as engine,
        kept_session(engine, options),
    ):
        prompt = make_prompt(engine, text, options.system, options.raw)
        if options.verbose:
            _show_plan(engine)
        answer = engine.generate(
            prompt,
            sampling=sampling,
            max_new_tokens=options.max_new_tokens,
            stop=options.stop,
            raw=options.raw,
            speculation=speculation,
            when_full=_make_refit(engine, prompt, inputs) if options.when_full == "slide" else "stop",
            template_arguments=inputs.arguments,
            tools=inputs.tools,
            documents=inputs.documents,
            constraint=constraint,
        )
        chunks: list[TextChunk] = []
        code = 0
        with closing(answer):
            try:
                for chunk in answer:
                    chunks.append(chunk)
                    _show(chunk, len(chunks), options)
            except KeyboardInterrupt:
                code = INTERRUPTED
        _finish(engine, chunks, options, sampling.seed if sampling.temperature > 0 else None)
        if notice := cut_notice(constraint, chunks[-1].step.finish if chunks else None):
            shared.say(notice)
        if options.explain:
            shared.show_explanation(engine)
    return code


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt from the command line, a file or standard input; one final line break of the latter two is dropped.

    PocketspecError if there is no prompt, if there are two, or if it is not UTF-8 text.
    """
    if prompt not in (None, "-") and file is not None:
        raise PocketspecError("a prompt and --prompt-file contradict each other; drop one")
    if file == Path("-"):
        prompt, file = "-", None
    if file is not None:
        try:
            data, where = file.read_bytes(), str(file)
        except OSError as error:
            raise PocketspecError(f"cannot read the prompt from {file}: {error.strerror}") from None
    elif prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise PocketspecError(_NO_PROMPT)
        data, where = sys.stdin.buffer.read(), "standard input"
        if prompt is None and not data:
            raise PocketspecError(_NO_PROMPT)
    else:
        return prompt
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise PocketspecError(f"the prompt from {where} is not UTF-8 text at byte {error.start}") from None


def make_prompt(engine: Engine, text: str, system: str | None, raw: bool) -> Prompt:
    """The prompt for ``Engine.generate``: messages if the model has a chat template and not ``raw``, else the text.

    PocketspecError for a system message without a template.
    """
    if raw or engine.tokenizer.template is None:
        if system is not None:
            reason = "--raw sends the prompt as it is" if raw else "this model has no chat template"
            raise PocketspecError(f"{reason}, so there is no place for --system; put it into the prompt")
        if not raw:
            shared.say("this model has no chat template: the prompt is continued as it is, as with --raw")
        return text
    messages = [{"role": "user", "content": text}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _make_refit(engine: Engine, prompt: Prompt, inputs: TemplateInputs) -> Refit:
    """A sliding window that keeps the first tokens; of messages, everything before the first words of the user."""
    from runtime.context_overflow import KEPT_FIRST, head_length, sliding_text

    if isinstance(prompt, str):
        return sliding_text(shared.say, KEPT_FIRST)
    messages = [item for item in prompt if not isinstance(item, int)]
    tokens = engine.encode(prompt, inputs=inputs)
    return sliding_text(shared.say, head_length(engine.tokenizer, messages, tokens, inputs))


def _show(chunk: TextChunk, number: int, options: argparse.Namespace) -> None:
    if not options.json:
        shared.show_text(chunk.text)
    if options.verbose:
        print(_step_line(number, chunk.step), file=sys.stderr)


def _finish(engine: Engine, chunks: list[TextChunk], options: argparse.Namespace, seed: int | None) -> None:
    """What follows the text: a line break on a terminal, statistics, or the JSON object."""
    if options.json:
        escaped = not shows_everything(sys.stdout)
        print(json.dumps(_report(engine, chunks, options, seed), ensure_ascii=escaped))
    elif sys.stdout.isatty():
        print()
    if options.stats and chunks:
        seeded = "" if seed is None else f"; seed {seed}"
        print(f"{chunks[-1].stats.line()}{seeded}", file=sys.stderr)


def _report(engine: Engine, chunks: list[TextChunk], options: argparse.Namespace, seed: int | None) -> dict[str, Any]:
    return {
        "bundle": engine.manifest.name,
        "text": "".join(chunk.text for chunk in chunks),
        "finish": (chunks[-1].step.finish or "interrupted") if chunks else "interrupted",
        "tokens": [token for chunk in chunks for token in chunk.step.tokens],
        "sources": [source for chunk in chunks for source in chunk.step.sources],
        "seed": seed,
        "stats": chunks[-1].stats.to_json() if chunks else None,
        "explanation": [asdict(prospect) for prospect in engine.explain()],
    }


def _show_plan(engine: Engine) -> None:
    from memory.report import plan_lines

    for line in plan_lines(engine.plan):
        print(line, file=sys.stderr)


def _step_line(number: int, step: Step) -> str:
    times = f"draft {step.draft_seconds * 1e3:.1f} ms, target {step.target_seconds * 1e3:.1f} ms"
    who = " ".join(step.sources)
    end = f", end: {step.finish}" if step.finish else ""
    return f"step {number}: accepted {step.num_accepted} of {step.num_drafted}, tokens from {who}; {times}{end}"
