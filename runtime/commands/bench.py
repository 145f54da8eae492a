"""``python -m runtime bench``: plain and speculative decoding side by side."""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import PocketspecError
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.bench import Contender, Start
    from runtime.engine import Engine
    from runtime.kernels.choice import Wanted
    from runtime.model import OrtModel

_PROMPTS = (
    "Write a bedtime story about a lantern that was afraid of the dark.",
    "Explain in a few sentences why the sky is blue.",
    "Once upon a time, there was a little girl named Lily. She loved to play outside.",
    "List five things to pack for a day at the sea, and say why each is useful.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="JSON lines (prompt or turns), texts between <|endoftext|>, or lines",
    )
    parser.add_argument("--count", type=int, metavar="N", help="the first N prompts only")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="the first N tokens of every prompt only")
    parser.add_argument("--raw", action="store_true", help="continue prompts as they are, without the chat template")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="most tokens of an answer (default: 64)")
    parser.add_argument(
        "--compare",
        metavar="NAMES",
        help="contenders, with commas: plain (one row a step), plain-safe, DRAFTER-chainN, DRAFTER-treeN,"
        " perfect-chainN (the ceiling), each with native: or portable: in front to compare kernels",
    )
    parser.add_argument("--baseline", metavar="NAME", help="what ratios refer to (default: the first contender)")
    parser.add_argument("--repeat", type=int, default=3, metavar="R", help="repeats, contenders in turns (default: 3)")
    parser.add_argument("--rows", metavar="COUNTS", help="also time forwards of so many rows, as in 1,2,4,8,16")
    parser.add_argument(
        "--cold",
        action="store_true",
        help="also time the first token of a new engine, its weights on disk or in memory",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the report to FILE.md or FILE.json")


def run(options: argparse.Namespace) -> int:
    """Measures, then prints the table."""
    from memory.meter import read_memory
    from runtime.bench import Bench, measure_rows, references
    from runtime.bench_report import Report

    _check(options)
    contenders = _contenders(options)
    rows = shared.parse_counts("--rows", options.rows) if options.rows else []
    starts = _starts(options, contenders, rows) if options.cold else {}
    with ExitStack() as stack:
        engines = {
            kernels: stack.enter_context(_open(options, contenders, rows, kernels))
            for kernels in dict.fromkeys(contender.kernels for contender in contenders)
        }
        engine = next(iter(engines.values()))
        prompts = _prompts(engine, options)
        runs = Bench(engines, prompts, options.tokens).measure(contenders, options.repeat, shared.say)
        report = Report(
            command=f"python -m runtime {shlex.join(sys.argv[1:])}",
            manifest=engine.manifest,
            plan=engine.plan,
            prompts=f"{len(prompts)} prompts from {options.prompts or 'this package'}",
            max_new_tokens=options.tokens,
            baseline=options.baseline or contenders[0].name,
            references=references(contenders),
            kernels=[each.target.kernels.description for each in engines.values()],
            runs=runs,
            rows={name: measure_rows(model, rows) for name, model in _models(engines).items()} if rows else {},
            starts=starts,
            memory=read_memory(),
        )
    text = "\n".join(report.lines())
    print(text)
    if options.output is not None:
        content = text if options.output.suffix == ".md" else json.dumps(report.to_json(), indent=2)
        shared.write_report(options.output, content)
    return 0


def _open(options: argparse.Namespace, contenders: list[Contender], rows: list[int], kernels: Wanted | None) -> Engine:
    """An engine with room for every contender, so that those with other kernels have the same."""
    from runtime.foreign import read_bundle
    from runtime.speculation import levels_below, needed_levels

    levels = levels_below(read_bundle(options.bundle))
    named = {level for contender in contenders for level in needed_levels(contender.speculation.drafter, levels)}
    drafters = tuple(level for level in levels if level in named)
    sizes = [contender.speculation.draft_size or 1 for contender in contenders]
    nodes = max([*sizes, *(count - 1 for count in rows)])
    shape = "tree" if any(contender.speculation.shape == "tree" for contender in contenders) else "chain"
    return shared.open_engine(options, kernels, drafters=drafters, shape=shape, nodes=nodes)


def _starts(options: argparse.Namespace, contenders: list[Contender], rows: list[int]) -> dict[str, Start]:
    """Cold and warm starts with the first contender's kernels, in processes' usual order: nothing is open before."""
    from runtime.bench import measure_start

    def open_engine() -> Engine:
        return _open(options, contenders, rows, contenders[0].kernels)

    with open_engine() as engine:
        files, prompt = engine.mapped_files(), _prompts(engine, options)[0]
    del engine
    gc.collect()
    return {name: measure_start(open_engine, prompt, files, name == "cold") for name in ("cold", "warm")}


def _models(engines: Mapping[Wanted | None, Engine]) -> dict[str, OrtModel]:
    """Every open level, with its kernels in front of its name where those are compared."""
    return {
        f"{kernels}:{name}" if kernels else name: model
        for kernels, engine in engines.items()
        for name, model in {engine.manifest.target.name: engine.target, **engine.drafters}.items()
    }


def _check(options: argparse.Namespace) -> None:
    for name in ("count", "prompt_tokens", "tokens", "repeat"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise PocketspecError(f"--{name.replace('_', '-')} {value}: it must be at least 1")
    shared.check_report(options.output)


def _contenders(options: argparse.Namespace) -> list[Contender]:
    from runtime.bench import PERFECT, parse_contender
    from runtime.foreign import read_bundle
    from runtime.speculation import PLAIN, check_drafter, levels_below

    levels = levels_below(read_bundle(options.bundle))
    names = (options.compare or ",".join(["plain", "plain-safe", *(f"{name}-chain3" for name in levels[:1])])).split(
        ","
    )
    contenders = [parse_contender(name.strip()) for name in names]
    for contender in contenders:
        if contender.speculation != PLAIN and contender.speculation.drafter != PERFECT:
            check_drafter(contender.speculation.drafter, levels, f"in {options.bundle}")
    if options.baseline is not None and options.baseline not in names:
        raise PocketspecError(f"--baseline {options.baseline} is not among the contenders: {', '.join(names)}")
    return contenders


def _prompts(engine: Engine, options: argparse.Namespace) -> list[list[int]]:
    from runtime.bench import read_prompts

    texts = read_prompts(options.prompts, options.count) if options.prompts else list(_PROMPTS[: options.count])
    return [engine.encode(text, raw=options.raw)[: options.prompt_tokens] for text in texts]
