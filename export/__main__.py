"""``python -m export``: makes a bundle of ONNX graphs from a checkpoint.

    python -m export --target qwen2-1.5b --quant int4

With ``train``, ``lessons``, ``distill``, ``measure`` or ``precision`` as the first word it trains the demo family and
drafters, and measures them.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from export.manifest import PocketspecError

if TYPE_CHECKING:
    from export.request import ExportRequest

_TRAINING = ("train", "lessons", "distill", "measure", "precision")
_WEIGHTS = ("int4", "int8", "fp16", "fp32")
_NONE = "none"
# Columns of tables where output is no terminal, which has no width of its own.
_WIDTH = 130


class UsageError(PocketspecError, ValueError):
    """A command line that cannot be understood."""


class _ExportParser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error of the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python -m export --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code: 0, 2 for what the user can put right, 130 after Ctrl-C."""
    from memory.command_line import run_program

    words = list(sys.argv[1:] if argv is None else argv)
    return run_program(
        lambda: _run(words), "stopped; nothing half-written is left, and the same command goes on from what is complete"
    )


def _run(words: list[str]) -> int:
    if words and words[0] in _TRAINING:
        from export.distill.commands import main as train

        return train(words)
    return _export(_parse(words))


def _export(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from export.estimate import PROCESS_BYTES, require_memory

    require_memory("any model", PROCESS_BYTES)  # before torch is loaded, which alone takes most of it
    from export.bundle import export_bundle
    from export.report import ConsoleReporter

    request = _request(arguments)
    out = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ConsoleReporter(out, Console(stderr=True)) as reporter:
            export_bundle(request, reporter)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _ExportParser(
        prog="python -m export", description="Export a model and its drafters to ONNX.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--target", "-m", "--model", "-i", "--input", required=True, help="known name, Hugging Face id, folder, or demo"
    )
    add("--quant", "-p", "--precision", choices=_WEIGHTS, default="int4", help="how weights are stored (int4)")
    add("--drafter", action="append", help="a drafter, may be repeated, or none (those suggested)")
    add("--intermediate", action="append", help="a model between drafter and target, or none (the one suggested)")
    add("--drafter-quant", choices=_WEIGHTS, help="weights of drafters (as the target)")
    add("--block-size", type=int, help="weights that share a scale: 16 to 256 (32)")
    add("--quant-method", help="rtn, search or a calibrated one (search; calibrated if there is a text)")
    add("--calibration-text", type=Path, help="text that calibrated methods measure activations on")
    add("--random-weights", action="store_true", help="the model's shape without its weights, for timing")
    add("--enlarge-like", metavar="NAME", help="the target enlarged to the cost of NAME, for timing")
    add("--positions", type=int, help="longest context (the model's own)")
    add("--output", "-o", type=Path, help="folder to make (bundles/<target>-<quant>)")
    add("--cache-dir", "-c", "--cache_dir", type=Path, help="where downloads are kept")
    add("--revision", help="commit, branch or tag of the target")
    add(
        "--kernels",
        choices=("auto", "native", "portable"),
        default="auto",
        help="native: with packed weights for our own kernels; portable: nothing for them (auto: what is small)",
    )
    add("--check-text", type=Path, help="text the export is checked on")
    add("--draft-vocab", type=int, metavar="N", help="drafters keep the logits of their N most frequent tokens (all)")
    add(
        "--text",
        type=Path,
        action="append",
        default=[],
        help="text in which --draft-vocab counts tokens, may be repeated (without: the tokenizer's first N)",
    )
    add("--int4-drafter", action="store_true", help="half of the int8 target's own codes as a drafter: no more bytes")
    add(
        "--draft-table",
        type=Path,
        action="append",
        default=[],
        metavar="TEXT",
        help="text like the target's answers, may be repeated: what follows what in it is a drafter without a model",
    )
    add("--execution-provider", "-e", "--execution_provider", "--ep", default="cpu", help="cpu")
    return parser.parse_args(words)


def _request(arguments: argparse.Namespace) -> ExportRequest:
    from export.request import ExportRequest, default_output

    if arguments.execution_provider.lower() != "cpu":
        raise UsageError(
            f"execution provider {arguments.execution_provider!r} is not supported; allowed is cpu, whose graphs other"
            " providers can load too"
        )
    request = ExportRequest(
        target=arguments.target,
        output=arguments.output or Path(),
        weights=arguments.quant,
        drafters=_partners("--drafter", arguments.drafter),
        intermediates=_partners("--intermediate", arguments.intermediate),
        drafter_weights=arguments.drafter_quant,
        block_size=arguments.block_size,
        method=arguments.quant_method,
        calibration_text=arguments.calibration_text,
        random_weights=arguments.random_weights,
        enlarge_like=arguments.enlarge_like,
        positions=arguments.positions,
        revision=arguments.revision,
        cache_dir=arguments.cache_dir,
        kernels=arguments.kernels,
        check_text=arguments.check_text,
        draft_vocab=arguments.draft_vocab,
        texts=tuple(arguments.text),
        int4_drafter=arguments.int4_drafter,
        table_texts=tuple(arguments.draft_table),
    )
    return request if arguments.output else replace(request, output=default_output(request))


def _partners(option: str, names: list[str] | None) -> tuple[str, ...] | None:
    """None: those suggested. The word none alone: no partners."""
    if names is None:
        return None
    if _NONE in names and len(names) > 1:
        raise UsageError(f"{option} none excludes other values, got {', '.join(names)}; drop one side")
    return () if names == [_NONE] else tuple(names)


if __name__ == "__main__":
    sys.exit(main())
