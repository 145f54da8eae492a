"""``python -m runtime bench conversation``: one conversation as planned and as is usual elsewhere, side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import PocketspecError
from memory.command_line import INTERRUPTED
from memory.machine import this_command
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.bench.conversation.measure import ConversationResult, ConversationSetting, ConversationTask
    from runtime.bench.conversation.settings import ConversationRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.set_defaults(turns=20)
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="one prompt a turn: JSON lines (prompt or turns), texts between <|endoftext|>, or lines",
    )
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="the first N tokens of every prompt only")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="most tokens of an answer (default: 64)")
    parser.add_argument(
        "--raw", action="store_true", help="one text that every prompt continues, and no end token ends an answer"
    )
    parser.add_argument("--drafter", metavar="NAME", default="auto", help="who drafts (default: auto)")
    parser.add_argument(
        "--compare",
        default="planned,unplanned",
        metavar="NAMES",
        help="contenders, with commas: planned, unplanned (everything allocated at once), unplanned-chain3 (the same"
        " with other drafts), plain (default: planned,unplanned)",
    )
    parser.add_argument("--repeat", type=int, default=1, metavar="R", help="repeats, contenders in turns (default: 1)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the report to FILE.md or FILE.json")


def run(options: argparse.Namespace) -> int:
    """Holds the conversations, then prints the table. If interrupted, it has the complete conversations."""
    from runtime.bench.conversation.report import ConversationReport
    from runtime.bench.conversation.settings import make_settings

    _check(options)
    request = _request(options)
    settings = make_settings([name.strip() for name in options.compare.split(",")], request)
    results: dict[str, list[ConversationResult]] = {setting.name: [] for setting in settings}
    command = this_command("runtime")
    report = ConversationReport(command, request.manifest, _task(options), settings, results)
    code = 0
    try:
        _hold_conversations(report.task, settings, options.repeat, results)
    except KeyboardInterrupt:
        code = INTERRUPTED
    text = "\n".join(report.lines())
    print(text)
    if options.output is not None:
        content = text if options.output.suffix == ".md" else json.dumps(report.to_json(), indent=2)
        shared.write_report(options.output, content)
    return code


def _hold_conversations(
    task: ConversationTask,
    settings: list[ConversationSetting],
    repeats: int,
    results: dict[str, list[ConversationResult]],
) -> None:
    """Runs every setting ``repeats`` times, in turns; each repeat begins with another one."""
    from runtime.bench.conversation.measure import converse
    from runtime.process.isolated import run_isolated

    shown: set[str] = set()

    def show_once(line: str) -> None:
        if line not in shown:
            shown.add(line)
            shared.say(line)

    for repeat in range(repeats):
        first = repeat % len(settings)
        for setting in [*settings[first:], *settings[:first]]:
            # An unplanned setting takes more than its plan on purpose, so the engine's notes about that are not shown.
            notify = show_once if setting.planned else lambda line: None
            done = run_isolated(converse, task, setting, notify=notify)
            results[setting.name].append(done)
            shared.say(
                f"repeat {repeat + 1}: {setting.name}: {done.tokens_per_second:.1f} tokens/s, generation memory"
                f" {done.generation_bytes / 1e6:,.1f} MB in {done.seconds:.0f} s"
            )


def _request(options: argparse.Namespace) -> ConversationRequest:
    from memory.device import read_device
    from memory.options import make_request
    from runtime.bench.conversation.settings import ConversationRequest
    from runtime.bundle.foreign import read_bundle
    from runtime.speculation.request import AUTO, check_drafter, levels_below

    manifest, device = read_bundle(options.bundle), read_device()
    if options.drafter != AUTO:
        check_drafter(options.drafter, levels_below(manifest), f"in {options.bundle}", files=manifest.files)
    request = make_request(options, device)
    return ConversationRequest(options.bundle, manifest, device, request, options.drafter, options.kernels)


def _task(options: argparse.Namespace) -> ConversationTask:
    from runtime.bench.conversation.measure import ConversationTask
    from runtime.bench.prompts import read_prompts
    from runtime.text.template_files import read_chat_template

    prompts = read_prompts(options.prompts, options.turns)
    if len(prompts) < options.turns:
        raise PocketspecError(
            f"{options.prompts} has {len(prompts)} prompts for --turns {options.turns}; give more, or ask for fewer"
            " turns"
        )
    raw = options.raw or read_chat_template(options.bundle) is None
    return ConversationTask(
        options.bundle,
        tuple(prompt.text for prompt in prompts),
        options.prompt_tokens,
        options.tokens,
        raw,
        options.kernels,
    )


def _check(options: argparse.Namespace) -> None:
    for name in ("prompt_tokens", "tokens", "repeat"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise PocketspecError(f"--{name.replace('_', '-')} {value}: it must be at least 1")
    shared.check_report(options.output)
