"""``python -m export distill --target``: one command from a target to an exported, paired, measured drafter."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import transformers

from export.distill.distill_request import DistillRequest
from export.distill.kinds import KINDS, REFUSED
from export.distill.pipeline import distill
from export.distill.processes import is_first
from export.manifest import PocketspecError
from export.request import short_name
from export.sources.targets import resolve
from memory.machine import this_command


class _DistillParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise PocketspecError(f"{message}; see python -m export distill --target T --help")


def is_one_command(words: Sequence[str]) -> bool:
    """Whether ``words`` ask for it: with a target, not with lessons that were made before."""
    return any(word == "--target" or word.startswith("--target=") for word in words)


def run(words: Sequence[str], say: Callable[[str], None]) -> None:
    """Runs the command line ``words``; of several processes the first one speaks."""
    request = read_request(words)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # long prompts are left out, not read
    distill(request, lambda line: say(line) if is_first() else None)


def read_request(words: Sequence[str]) -> DistillRequest:
    """What the options ``words`` ask for."""
    options = _parser().parse_args(words)
    output = options.output or Path("drafters") / f"{short_name(resolve(options.target).name)}-{options.kind}"
    return DistillRequest(
        target=options.target,
        kind=options.kind,
        output=output,
        hours=options.hours,
        texts=tuple(options.text),
        start=options.start,
        layers=tuple(options.from_layers),
        drafts=options.drafts,
        bundle=options.bundle,
        weights=options.quant,
        revision=options.revision,
        cache_dir=options.cache_dir,
        command=this_command("export"),
    )


def _parser() -> argparse.ArgumentParser:
    kinds = "; ".join(f"{kind.name}: {kind.purpose}" for kind in KINDS.values())
    parser = _DistillParser(prog="python -m export distill", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--target", required=True, help="known name, Hugging Face id, folder, or demo")
    add("--kind", required=True, choices=(*KINDS, *REFUSED), help=kinds)
    add("--text", type=Path, action="extend", nargs="+", default=[], help="prompts: JSON lines (or .xz), or paragraphs")
    add("--hours", type=float, default=1.0, help="for everything (1)")
    add("--output", type=Path, help="folder of the work and its results (drafters/<target>-<kind>)")
    add("--start", type=Path, help="begin as the small model in this folder")
    add("--from-layers", type=int, nargs="+", default=[], metavar="N", help="begin as these layers of the target")
    add("--drafts", type=int, metavar="K", help="tokens of a draft (as usual for the kind)")
    add("--bundle", type=Path, help="the target's bundle, if it is exported already")
    add("--quant", choices=("int4", "int8", "fp16", "fp32"), default="int4", help="weights of the target (int4)")
    add("--revision", help="commit, branch or tag of the target")
    add("--cache-dir", type=Path, help="where downloads are kept")
    return parser
