"""``python -m runtime perplexity``: how well the target predicts a text file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.manifest import PocketspecError
from memory.progress_bars import ProgressBars
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.perplexity import TextScore

# The usual context, where the model has so many positions: results must not depend on the memory that is free.
_CONTEXT = 2048
# Rows that are scored in one forward, where memory allows: with more, forwards are hardly faster per row.
_ROWS = 32
_LINES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="a text in UTF-8, of any size")
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="tokens that are scored per window of --context tokens (default: half of it)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Scores the file."""
    from runtime.bundle.foreign import read_bundle
    from runtime.perplexity import score_file

    _check_file(options.file)
    positions = read_bundle(options.bundle).target.shape.positions
    options.context = options.context or str(min(_CONTEXT, positions))
    with shared.open_engine(options, drafters=(), shape="chain", nodes=_ROWS - 1) as engine:
        window = engine.capacity
        stride = window // 2 if options.stride is None else options.stride
        with engine.alone(), _progress(options.file) as show:  # the bar is more than the plan knows of
            score = score_file(engine, options.file, stride, show)
        if options.json:
            report = {"bundle": engine.manifest.name, "window": window, "stride": stride, **_numbers(score)}
            print(json.dumps(report))
        else:
            _print(engine.manifest.name, options.file, score, window, stride)
    return 0


def _check_file(path: Path) -> None:
    """PocketspecError for a file that cannot be scored, before a model is opened for it."""
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise PocketspecError(f"cannot read {path}: {error.strerror}") from None
    if is_empty:
        raise PocketspecError(f"{path} is empty; take a file with text in it")


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[TextScore], None]]:
    """A bar on a terminal, up to nine lines elsewhere: how much has been read, and the perplexity so far."""
    total, done = path.stat().st_size, 0

    def show(score: TextScore) -> None:
        nonlocal done
        so_far = f"perplexity {score.perplexity:,.3f} so far"
        if bars is not None:
            bars.advance(score.num_bytes - done, so_far)
        elif score.num_bytes * _LINES // total > done * _LINES // total and score.num_bytes < total:
            shared.say(f"{score.num_bytes:,} of {total:,} bytes read, {so_far}")
        done = score.num_bytes

    with ProgressBars("bytes") if sys.stderr.isatty() else nullcontext() as bars:
        if bars is not None:
            bars.begin("reading", total)
        yield show


def _numbers(score: TextScore) -> dict[str, Any]:
    return {
        "perplexity": score.perplexity,
        "nats_per_token": score.nats_per_token,
        "nats_per_character": score.nats_per_character,
        "nats_per_byte": score.nats_per_byte,
        "tokens": score.tokens,
        "characters": score.characters,
        "bytes": score.num_bytes,
    }


def _print(name: str, path: Path, score: TextScore, window: int, stride: int) -> None:
    print(f"{name} on {path.name}: perplexity {score.perplexity:,.4f} per token")
    print(
        f"  {score.nats_per_token:.4f} nats per token, {score.nats_per_character:.4f} per character,"
        f" {score.nats_per_byte:.4f} per byte"
    )
    print(
        f"  {score.tokens:,} tokens of {score.characters:,} characters ({score.num_bytes:,} bytes),"
        f" in windows of {window:,} tokens that end every {stride:,}"
    )
