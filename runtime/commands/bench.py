"""``python -m runtime bench``: plain and speculative decoding side by side."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import Manifest, PocketspecError
from memory.command_line import INTERRUPTED
from memory.machine import this_command
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.bench.contenders import Contender
    from runtime.bench.measure import Task
    from runtime.bench.prompts import BenchPrompt
    from runtime.bench.report import Report
    from runtime.bench.rows import EngineStart
    from runtime.bench.simulated import Simulation
    from runtime.engine import Engine
    from runtime.kernels.selection import Wanted

_PROMPTS = (
    "Write a bedtime story about a lantern that was afraid of the dark.",
    "Explain in a few sentences why the sky is blue.",
    "Once upon a time, there was a little girl named Lily. She loved to play outside.",
    "List five things to pack for a day at the sea, and say why each is useful.",
)
# Tokens of a random prompt, for a bundle without a tokenizer and without --prompt-tokens.
_RANDOM_TOKENS = 64
_OUTPUTS = (".md", ".csv", ".json")
# The numbers of rows of a cost curve, without --rows.
_PLOTTED_ROWS = "1,2,3,4,6,8,12,16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.epilog = "bench conversation and bench memory measure other things, and have a --help of their own."
    shared.add_bundle(parser)
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="JSON lines (prompt or turns, perhaps category or kind), texts between <|endoftext|>, or lines",
    )
    parser.add_argument("--count", type=int, metavar="N", help="the first N prompts only")
    parser.add_argument("--count-per-category", type=int, metavar="N", help="the first N prompts of every category")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="the first N tokens of every prompt only")
    parser.add_argument("--raw", action="store_true", help="continue prompts as they are, without the chat template")
    shared.add_template_arguments(parser)
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="most tokens of an answer (default: 64)")
    parser.add_argument(
        "--compare",
        metavar="NAMES",
        help="contenders, with commas: plain (one row a step), plain-safe, suffix, chain, tree, hierarchy, ahead, a"
        " drafter by its name (sizes as they pay), auto, all-drafters (each, and auto), or exactly DRAFTER-chainN,"
        " DRAFTER-treeNxDEPTH, LOWER>MIDDLE-chainN/treeMxDEPTH, perfect-chainN (the ceiling), each with native: or"
        " portable: in front to compare kernels (default: plain and all that the bundle can have)",
    )
    parser.add_argument("--baseline", metavar="NAME", help="what ratios refer to (default: the faster plain decoding)")
    parser.add_argument("--repeat", type=int, default=3, metavar="R", help="repeats, contenders in turns (default: 3)")
    parser.add_argument("--rows", metavar="COUNTS", help="also time forwards of so many rows, as in 1,2,4,8,16")
    parser.add_argument(
        "--cold",
        action="store_true",
        help="also time the first token of a new engine, its weights on disk or in memory",
    )
    shared.add_sampling_law(parser)
    shared.add_constraint(parser)
    shared.add_acceptance(parser)
    parser.add_argument(
        "--synthetic-acceptance",
        metavar="CHANCES",
        help="for random weights: accept drafts with this chance, as in 0.8, or 0.9,0.8,0.7 by depth, or mean:3.2@6 for"
        " a published accepted length with chains of 6; behind a slash the same for an intermediate",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write the report to FILE.md, FILE.csv or FILE.json"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also draw PNG pictures into FOLDER")


def run(options: argparse.Namespace) -> int:
    """Measures, then prints the tables. If something ends it early, they have the complete answers."""
    from runtime.bench.report import with_rows
    from runtime.bench.setting import choose_contenders, open_models, worth_comparing
    from runtime.bench.simulated import parse_simulation
    from runtime.bundle.foreign import read_bundle

    _check(options)
    manifest = read_bundle(options.bundle)
    contenders = _as_judged(choose_contenders(options.compare, manifest, f"in {options.bundle}"), options)
    _check_baseline(options, contenders)
    simulation = None if options.synthetic_acceptance is None else parse_simulation(options.synthetic_acceptance)
    prompts = _read_prompts(options, manifest)
    rows = options.rows or (_PLOTTED_ROWS if options.plots else None)
    counts = shared.parse_counts("--rows", rows) if rows else []
    starts = _starts(options, manifest, contenders, counts, prompts) if options.cold else {}
    with ExitStack() as stack:
        engines = {
            kernels: stack.enter_context(_open(options, manifest, contenders, counts, kernels))
            for kernels in dict.fromkeys(contender.kernels for contender in contenders)
        }
        if options.compare is None:
            contenders = worth_comparing(contenders, engines)
        report, error = _measure(options, contenders, engines, prompts, simulation)
        report = replace(report, starts=starts)
        if error is None:
            report, error = with_rows(report, open_models(engines), counts)
    _show(report, options)
    if error is not None and not isinstance(error, KeyboardInterrupt):
        raise error
    return INTERRUPTED if error is not None else 0


def _measure(
    options: argparse.Namespace,
    contenders: Sequence[Contender],
    engines: Mapping[Wanted | None, Engine],
    prompts: Sequence[BenchPrompt],
    simulation: Simulation | None,
) -> tuple[Report, BaseException | None]:
    """The report on all complete answers, and the error that ended the run early, if any."""
    from runtime.bench.machine import read_load
    from runtime.bench.measure import Bench
    from runtime.bench.progress import show_answers
    from runtime.bench.prompts import describe_lengths
    from runtime.bench.report import Report, Setup, why_ended
    from runtime.bench.setting import collect
    from runtime.hardware import measure_bandwidth

    engine = next(iter(engines.values()))
    task = _task(options, engine, prompts, simulated=simulation is not None)
    lengths = describe_lengths(task.prompts, options.prompt_tokens)
    chances = {each.name: simulation.chances(each) for each in contenders} if simulation else {}
    setup = Setup(
        command=this_command("runtime"),
        manifest=engine.manifest,
        plan=engine.plan,
        contenders=contenders,
        prompts=prompts,
        prompts_from=f"{len(prompts)} prompts {_origin(options)} {lengths}",
        repeats=options.repeat,
        max_new_tokens=options.tokens,
        sampling=task.sampling,
        kernels=[each.target.kernels.description for each in engines.values()],
        baseline=options.baseline,
        bandwidth=measure_bandwidth(engine.plan.threads),
        synthetic=options.synthetic_acceptance,
        load=read_load(),
    )
    total = options.repeat * len(prompts) * len(contenders)
    with show_answers(total, shared.say) as advance:
        answers, error = collect(Bench(engines, task, chances), contenders, options.repeat, advance)
    ended = f"{why_ended(error)} after {len(answers)} of {total} answers" if error is not None else None
    return Report(setup, answers, ended_early=ended), error


def _task(options: argparse.Namespace, engine: Engine, prompts: Sequence[BenchPrompt], simulated: bool) -> Task:
    """The prompts as tokens; PocketspecError if they are too short or too long, before anything is measured."""
    from runtime.bench.measure import Task
    from runtime.bench.prompts import first_tokens

    inputs = shared.make_template_inputs(options)
    encoded = [engine.encode(prompt.text, raw=options.raw, inputs=inputs) for prompt in prompts]
    tokens = first_tokens(encoded, options.prompt_tokens)
    long = [number for number, prompt in enumerate(tokens, 1) if len(prompt) >= engine.capacity]
    if long:
        raise PocketspecError(
            f"prompt {long[0]} has {len(tokens[long[0] - 1])} tokens ({len(long)} of {len(prompts)} are too long); a"
            f" context of {engine.capacity} has room for {engine.capacity - 1}: pass --prompt-tokens, or more --context"
        )
    # A fixed seed, so that the same command measures the same texts.
    sampling, constraint = shared.make_sampling(options, seed=0), shared.make_constraint(options)
    if simulated and constraint is not None:
        raise PocketspecError("--synthetic-acceptance would refuse what a constraint forces; drop one of them")
    return Task(tokens, options.tokens, sampling, simulated, constraint)


def _open(
    options: argparse.Namespace,
    manifest: Manifest,
    contenders: Sequence[Contender],
    rows: Sequence[int],
    kernels: Wanted | None,
) -> Engine:
    """An engine with room for every contender, so that engines with other kernels get the same plan."""
    from runtime.bench.setting import request_fields

    constrained = shared.make_constraint(options) is not None
    return shared.open_engine(options, kernels, constrained=constrained, **request_fields(contenders, rows, manifest))


def _starts(
    options: argparse.Namespace,
    manifest: Manifest,
    contenders: Sequence[Contender],
    rows: Sequence[int],
    prompts: Sequence[BenchPrompt],
) -> dict[str, EngineStart]:
    """A cold and a warm start with the first contender's kernels. They are measured before anything else is open."""
    from runtime.bench.rows import measure_start

    def open_engine() -> Engine:
        return _open(options, manifest, contenders, rows, contenders[0].kernels)

    with open_engine() as engine:
        files, prompt = engine.mapped_files(), _task(options, engine, prompts, simulated=False).prompts[0]
    del engine
    gc.collect()
    return {name: measure_start(open_engine, prompt, files, name == "cold") for name in ("cold", "warm")}


def _show(report: Report, options: argparse.Namespace) -> None:
    """Prints the report, and writes the files that were asked for."""
    from runtime.bench.plots import draw_plots
    from runtime.bench.table import comma_separated, markdown, terminal

    text = markdown(report)
    print(terminal(report, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text)
    if options.output is not None:
        written = {
            ".md": lambda: text,
            ".csv": lambda: comma_separated(report),
            ".json": lambda: json.dumps(report.to_json(), indent=2),
        }
        shared.write_report(options.output, written[options.output.suffix]())
    if options.plots is not None:
        for path in draw_plots(report, options.plots):
            shared.say(f"drew {path}")


def _check(options: argparse.Namespace) -> None:
    """Refuses what can be refused before anything is read."""
    from runtime.bench.plots import check_plots

    for name in ("count", "count_per_category", "prompt_tokens", "tokens", "repeat"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise PocketspecError(f"--{name.replace('_', '-')} {value}: it must be at least 1")
    shared.check_report(options.output, _OUTPUTS)
    check_plots(options.plots)


def _check_baseline(options: argparse.Namespace, contenders: Sequence[Contender]) -> None:
    names = [contender.name for contender in contenders]
    if options.baseline is not None and options.baseline not in names:
        raise PocketspecError(f"--baseline {options.baseline} is not among the contenders: {', '.join(names)}")


def _as_judged(contenders: Sequence[Contender], options: argparse.Namespace) -> list[Contender]:
    """The contenders, with the acceptance rule that was asked for."""
    return [
        each if each.is_plain else replace(each, speculation=replace(each.speculation, acceptance=options.acceptance))
        for each in contenders
    ]


def _origin(options: argparse.Namespace) -> str:
    from runtime.text.token_ids import has_tokenizer

    if options.prompts is None and not has_tokenizer(options.bundle):
        return "of random tokens"
    return f"from {options.prompts or 'this package'}"


def _read_prompts(options: argparse.Namespace, manifest: Manifest) -> list[BenchPrompt]:
    from runtime.bench.prompts import BenchPrompt, random_prompts, read_prompts
    from runtime.text.token_ids import has_tokenizer

    if options.prompts is not None:
        return read_prompts(options.prompts, options.count, options.count_per_category)
    if not has_tokenizer(options.bundle):
        shared.say(f"{options.bundle} has no tokenizer: prompts are random tokens")
        shape = manifest.target.shape
        length = options.prompt_tokens or min(_RANDOM_TOKENS, shape.positions // 2)
        return random_prompts(len(_PROMPTS[: options.count]), length, shape.vocab_size)
    return [BenchPrompt(text) for text in _PROMPTS[: options.count]]
