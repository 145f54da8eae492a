"""The options that say what a bundle may use of the device; every command that opens one has them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.manifest import PocketspecError
from memory.choices import ALLOWED, Request
from memory.device import Device
from memory.plan import Placement
from memory.size import MemoryShare, parse_size

# Lists of cores have commas, too: a comma separates fields only in front of a field's name.
_FIELDS = re.compile(r",(?=[a-z]+:)")
_CORES = re.compile(r"(\d+)(?:-(\d+))?")
_CONTEXT = re.compile(r"(up\s*to\s*)?(\d+)", re.IGNORECASE)


def add_request(parser: argparse.ArgumentParser) -> None:
    """Declares the options: the bundle and what it may use."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder written by python -m export")
    add_limits(parser)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Declares what a bundle may use."""
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="bytes, or with MB, MiB, GB, or a share of what is available as in 60%% (default: what the device or its"
        " container has, less a margin): planned before anything is loaded, and kept",
    )
    parser.add_argument(
        "--context",
        metavar="N",
        help="tokens of prompt and answers in all, or 'up to N': fewer if that is what fits (default: up to 4096)",
    )
    parser.add_argument(
        "--turns", type=int, default=1, metavar="N", help="turns of the planned conversation (default: 1)"
    )
    parser.add_argument(
        "--kept-conversations",
        type=int,
        default=0,
        metavar="N",
        help="conversations beside the current one whose KV rows are kept, where there is memory for them, so that they"
        " go on without being read again (default: %(default)s)",
    )
    parser.add_argument(
        "--kv-type", metavar="TYPE", help="of the target's KV cache: fp32, fp16, int8, int4 (default: planned)"
    )
    parser.add_argument(
        "--prefill-chunk", type=int, metavar="N", help="rows of a prompt that run at once (default: planned)"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=ALLOWED,
        help="what may be given up at the very end: precision (KV types with which the target speaks measurably worse),"
        " context, or disk (weights that do not fit are read from disk at every step); can be repeated",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads per operator (default: one per usable core)")
    parser.add_argument(
        "--place",
        action="append",
        default=[],
        metavar="LEVEL=WHERE",
        help="a place of its own for a level, by name or role: any of threads:N, cores:0,2-3 and provider:NAME, as in"
        " target=threads:1,cores:0; can be repeated",
    )
    parser.add_argument(
        "--fixed-width",
        action="store_true",
        help="the target runs one number of rows in every step, as processors that need fixed shapes do; the same text",
    )


def add_constrained(parser: argparse.ArgumentParser) -> None:
    """Declares that answers may be constrained, for commands that do not see a constraint before they plan."""
    parser.add_argument(
        "--constrained",
        action="store_true",
        help="have memory ready for answers that are kept to a schema, a regular expression or a grammar",
    )


def make_request(options: argparse.Namespace, device: Device, **more: Any) -> Request:
    """The request in the options; ``more`` are fields for which a command has options of its own."""
    context, up_to = _parse_context(options.context)
    if options.prefill_chunk is not None and options.prefill_chunk < 1:
        raise PocketspecError(f"--prefill-chunk {options.prefill_chunk}: it must be at least 1")
    budget = None if options.max_memory is None else parse_size(options.max_memory)
    return Request(
        context=context,
        turns=options.turns,
        up_to=up_to,
        budget_bytes=budget.of(device.attainable_bytes) if isinstance(budget, MemoryShare) else budget,
        kv_type=options.kv_type,
        prefill_chunk=options.prefill_chunk,
        threads=check_threads(options.threads),
        placements=parse_placements(options.place),
        fixed_width=options.fixed_width,
        kept_conversations=options.kept_conversations,
        may_give_up=frozenset(options.allow),
        **more,
    )


def check_threads(threads: int | None) -> int | None:
    """``threads`` as given; PocketspecError if they are less than 1."""
    if threads is not None and threads < 1:
        raise PocketspecError(f"--threads {threads}: it must be at least 1")
    return threads


def parse_placements(texts: Iterable[str]) -> dict[str, Placement]:
    """Placements by level, from texts such as ``target=threads:1,cores:0-1,provider:CPUExecutionProvider``."""
    placements: dict[str, Placement] = {}
    for text in texts:
        level, _, where = text.partition("=")
        if level in placements:
            raise PocketspecError(f"--place {text}: {level} has a place already; name all of it at once")
        placements[level] = _parse_placement(text, where)
    return placements


def _parse_placement(text: str, where: str) -> Placement:
    given: dict[str, Any] = {}
    for part in _FIELDS.split(where):
        name, _, value = part.partition(":")
        if name == "threads" and value.isdecimal():
            given[name] = int(value)
        elif name == "cores" and all(map(_cores, value.split(","))):
            given[name] = tuple(core for run in value.split(",") for core in _cores(run))
        elif name == "provider" and value:
            given[name] = value
        else:
            raise PocketspecError(
                f"--place {text}: {part!r} says no place; write LEVEL=threads:1,cores:0-1,provider:CPUExecutionProvider"
            )
    return Placement(**given)


def _cores(run: str) -> range:
    """The cores in a text such as ``3`` or ``0-2``; an empty range for any other text."""
    match = _CORES.fullmatch(run)
    return range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)


def _parse_context(text: str | None) -> tuple[int | None, bool]:
    """The number of tokens (None: not given), and whether fewer are enough."""
    if text is None:
        return None, False
    match = _CONTEXT.fullmatch(text.strip())
    if not match:
        raise PocketspecError(f"--context {text!r} is no number of tokens; write 4096, or 'up to 4096'")
    return int(match[2]), match[1] is not None
