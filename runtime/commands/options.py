"""Options that several commands share, and the objects they stand for."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import PocketspecError

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.kernels.choice import Wanted
    from runtime.sampling import SamplingParams
    from runtime.speculation import Speculation

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_NO_EFFECT_WHEN_GREEDY = ("top_k", "top_p", "min_p", "seed")


def say(line: str) -> None:
    """A line about the text, to standard error."""
    print(f"note: {line}", file=sys.stderr)


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` bytes on a terminal's standard error, a line elsewhere; gives what advances it."""
    if not sys.stderr.isatty():
        say(f"{title} ({total:,} bytes)")
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def parse_counts(option: str, text: str) -> list[int]:
    """Numbers of rows from a text such as ``1,2,4``; ``option`` names it in errors."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise PocketspecError(f"{option} {text}: write counts with commas, as in 1,2,4,8,16") from None
    if min(counts) < 1:
        raise PocketspecError(f"{option} {text}: a forward has at least 1 row")
    return counts


def check_threads(threads: int | None) -> int | None:
    """``threads`` as given, if there can be so many."""
    if threads is not None and threads < 1:
        raise PocketspecError(f"--threads {threads}: it must be at least 1")
    return threads


def parse_bytes(text: str) -> int:
    """Bytes from a number with or without a unit: ``1500000``, ``800MB``, ``1.5GiB``. MB is 10**6, MiB 2**20."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write bytes, or a number with MB, GB, MiB or GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """The bundle and what it may use of the device."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder written by python -m export")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads per operator (default: ONNX Runtime's choice)"
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens of prompt and answer (default: the model's)")
    parser.add_argument(
        "--max-memory", type=parse_bytes, metavar="SIZE", help="bytes, or with MB, GB: planned and kept"
    )
    parser.add_argument("--verify", action="store_true", help="hash all files, even if they seem unchanged")
    parser.add_argument(
        "--warm", action="store_true", help="read all mapped weights into memory first, not while the first step runs"
    )
    parser.add_argument(
        "--kernels",
        choices=("auto", "native", "portable"),
        default="auto",
        help="native: our own or an error; portable: ONNX Runtime's; auto (default): native where they can be used",
    )


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """Who guesses, and how guesses are judged."""
    parser.add_argument("--no-speculation", action="store_true", help="plain decoding; the same text")
    parser.add_argument(
        "--drafter",
        metavar="NAME",
        help="a drafter of the bundle, suffix, both as suffix+NAME, none, or auto (default)",
    )
    parser.add_argument(
        "--draft-size", type=int, metavar="N", help="most tokens of a draft (default: 3, tree and suffix 7)"
    )
    parser.add_argument("--shape", choices=("chain", "tree"), help="of a drafter model's drafts (default: chain)")
    parser.add_argument(
        "--acceptance",
        choices=("greedy", "match", "block", "recursive"),
        help="all exact; default: greedy at temperature 0, else match, which equals plain sampling token for token",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen, and where answers end."""
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy")
    parser.add_argument("--top-k", type=int, metavar="N", help="keep the N most probable tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the most probable tokens that make up P")
    parser.add_argument("--min-p", type=float, metavar="P", help="keep tokens of at least P times the best one's")
    parser.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1, tokens seen are less likely")
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same text (default: another each time)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; can be repeated")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="end after N tokens")


def make_sampling(options: argparse.Namespace) -> SamplingParams:
    """The sampling settings asked for. A seed is drawn where one matters and none is given."""
    from runtime.sampling import SamplingParams

    names = ("top_k", "top_p", "min_p", "repetition_penalty", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.temperature == 0:
        for name in _NO_EFFECT_WHEN_GREEDY:
            if name in given:
                say(f"--{name.replace('_', '-')} changes nothing at temperature 0; pass --temperature")
    else:
        given.setdefault("seed", secrets.randbits(31))
    return SamplingParams(temperature=options.temperature, **given)


def make_speculation(options: argparse.Namespace) -> Speculation:
    """How to speculate, as asked for. Options that contradict one another are refused."""
    from runtime.speculation import AUTO, NONE, Speculation

    if options.no_speculation and options.drafter not in (None, NONE):
        raise PocketspecError(f"--no-speculation and --drafter {options.drafter} contradict each other; drop one")
    drafter = NONE if options.no_speculation else options.drafter or AUTO
    for name in ("draft_size", "shape"):
        if drafter == NONE and getattr(options, name) is not None:
            raise PocketspecError(f"--{name.replace('_', '-')} means nothing without speculation; drop it")
    return Speculation(drafter, options.draft_size, options.shape or "chain", options.acceptance)


def open_engine(
    options: argparse.Namespace, drafters: tuple[str, ...] | None, max_draft: int, kernels: Wanted | None = None
) -> Engine:
    """The engine for ``options.bundle``; of the bundle's drafters only ``drafters`` are opened, None: all.

    ``kernels`` None: those of ``options``.
    """
    from memory.plan import Request
    from runtime.engine import Engine

    request = Request(options.context, options.max_memory, drafters, max_draft, check_threads(options.threads))
    return Engine.open(
        options.bundle,
        request,
        verify=options.verify,
        warm=options.warm,
        kernels=kernels or options.kernels,
        notify=say,
        progress=show_progress,
    )


def open_for(options: argparse.Namespace, speculation: Speculation) -> Engine:
    """The engine with no more open than ``speculation`` needs."""
    from runtime.foreign import read_bundle
    from runtime.speculation import AUTO, NONE, SUFFIX, check_drafter, draft_nodes, needed_levels

    levels = [level.name for level in read_bundle(options.bundle).drafters()]
    if speculation.drafter not in (AUTO, NONE):
        check_drafter(speculation.drafter, levels, f"in {options.bundle}")
    wanted = needed_levels(speculation.drafter, levels)
    size = draft_nodes(speculation, wanted[0] if wanted else SUFFIX)
    if size < 1:
        raise PocketspecError(f"--draft-size {size}: it must be at least 1 (plain decoding is --no-speculation)")
    engine = open_engine(options, wanted, size)
    if engine.target.widths.exact and not engine.is_exact(speculation):
        say("rows of a tree do not agree bit for bit with those of a chain here: exact up to near ties")
    return engine
