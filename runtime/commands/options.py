"""Options that several commands share, and the objects made from them."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.manifest import PocketspecError
from memory.options import add_request, make_request
from memory.progress_bars import ProgressBars

if TYPE_CHECKING:
    from runtime.constraints.request import Constrained
    from runtime.decoding.sampling import SamplingParams
    from runtime.engine import Engine
    from runtime.kernels.selection import Wanted
    from runtime.speculation.request import Speculation
    from runtime.text.template_data import TemplateInputs

_NO_EFFECT_WHEN_GREEDY = ("top_k", "top_p", "min_p", "seed")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
# Weights of this size are packed in 0.2 s for the native kernels, in 3 s for ONNX Runtime's (1.5B shape, EPYC Zen 3).
_SHOWN_BYTES = 64_000_000


def say(line: str) -> None:
    """Prints a line about the answer to standard error."""
    print(f"note: {line}", file=sys.stderr)


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows the progress of ``total`` bytes on standard error: a bar on a terminal, otherwise one line.

    Yields the function to call with the number of bytes done since the last call. Work that is done before anyone could
    read it is not shown.
    """
    if total < _SHOWN_BYTES:
        yield lambda count: None
    elif not sys.stderr.isatty():
        say(f"{title} ({total:,} bytes)")
        yield lambda count: None
    else:
        with ProgressBars("bytes") as bars:
            bars.begin(title, total)
            yield bars.advance


def parse_counts(option: str, text: str) -> list[int]:
    """Numbers of rows from a text such as ``1,2,4``; ``option`` names it in errors."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise PocketspecError(f"{option} {text}: write counts with commas, as in 1,2,4,8,16") from None
    if min(counts) < 1:
        raise PocketspecError(f"{option} {text}: a forward has at least 1 row")
    return counts


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Options for the bundle, its share of the device, and how it is opened."""
    add_request(parser)
    add_opening(parser)


def add_opening(parser: argparse.ArgumentParser) -> None:
    """Options for how a bundle is opened."""
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
    """Options for the drafter and for acceptance."""
    parser.add_argument("--no-speculation", action="store_true", help="plain decoding; the same text")
    parser.add_argument(
        "--drafter",
        metavar="NAME",
        help="auto (default): what is expected to be fastest here, step by step; or a drafter of the bundle, suffix,"
        " both as suffix+NAME, a drafter below an intermediate as LOWER>MIDDLE, one that drafts while the target"
        " verifies as ahead:NAME, or none",
    )
    parser.add_argument("--draft-size", type=int, metavar="N", help="most tokens of a draft (default: as planned)")
    parser.add_argument("--shape", choices=("chain", "tree"), help="of a drafter model's drafts (default: as planned)")
    add_acceptance(parser)


def add_acceptance(parser: argparse.ArgumentParser) -> None:
    """The option for the acceptance rule."""
    parser.add_argument(
        "--acceptance",
        choices=("greedy", "match", "block", "recursive"),
        help="all exact; default: greedy at temperature 0, else match, which equals plain sampling token for token",
    )


def add_suffix_store(parser: argparse.ArgumentParser) -> None:
    """The option for a store of earlier texts."""
    parser.add_argument(
        "--suffix-store",
        type=Path,
        metavar="FILE",
        help="keep the tokens of all prompts and answers in FILE, for you alone, and look for repetition of them in"
        " later conversations; python -m runtime forget FILE erases it",
    )


def add_explain(parser: argparse.ArgumentParser) -> None:
    """The option that explains the scheduler's choices."""
    parser.add_argument(
        "--explain",
        action="store_true",
        help="after an answer, tokens/s expected and realised of every way to decode, on standard error",
    )


def show_explanation(engine: Engine) -> None:
    """Prints the forecast and the result of each decoding method, in tokens/s, to standard error."""
    from memory.layer_states import why_no_trees
    from runtime.scheduler.learned_state import explanation_lines

    for line in explanation_lines(engine.explain(), why_no_trees(engine.manifest.target)):
        print(line, file=sys.stderr)


def show_text(text: str) -> None:
    """Prints a part of an answer at once: as it is to a pipe, and made visible on a terminal."""
    from runtime.text.visible import visible

    print(visible(text) if sys.stdout.isatty() else text, end="", flush=True)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Options for how tokens are chosen, and where answers end."""
    add_sampling_law(parser)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; can be repeated")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="end after N tokens")


def add_sampling_law(parser: argparse.ArgumentParser) -> None:
    """Options for how tokens are chosen."""
    parser.add_argument(
        "--sampling",
        choices=("greedy", "model"),
        help="model: as the checkpoint's makers suggest (its generation_config.json), but for what is given beside it;"
        " greedy (default): the most probable token",
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="0, the default, is greedy")
    parser.add_argument("--top-k", type=int, metavar="N", help="keep the N most probable tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the most probable tokens that make up P")
    parser.add_argument("--min-p", type=float, metavar="P", help="keep tokens of at least P times the best one's")
    parser.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1, tokens seen are less likely")
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same text (default: another each time)")


def add_constraint(parser: argparse.ArgumentParser) -> None:
    """Options for what an answer must be, one at most."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json-schema", type=Path, metavar="FILE", help="answer with JSON of the schema in FILE")
    group.add_argument("--json-object", action="store_true", help="answer with a JSON object")
    group.add_argument("--regex", metavar="PATTERN", help="answer with a text that matches PATTERN as a whole")
    group.add_argument(
        "--grammar", type=Path, metavar="FILE", help="answer in the language of the Lark grammar in FILE"
    )


def make_constraint(options: argparse.Namespace) -> Constrained | None:
    """What the answer was asked to be; None: anything."""
    from runtime.constraints.request import AnyJsonObject, Grammar, JsonSchema, Regex

    if options.json_schema is not None:
        return JsonSchema(_read_text("--json-schema", options.json_schema))
    if options.grammar is not None:
        return Grammar(_read_text("--grammar", options.grammar))
    if options.regex is not None:
        return Regex(options.regex)
    return AnyJsonObject() if options.json_object else None


def _read_text(option: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise PocketspecError(f"{option} {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PocketspecError(f"{option} {file}: not UTF-8 text at byte {error.start}") from None


def add_template_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the chat template's inputs beside the messages."""
    parser.add_argument(
        "--template-argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the chat template, as in enable_thinking=false; VALUE is JSON, or else text; tools=[...]"
        " and documents=[...] are passed as such; can be repeated",
    )


def make_template_inputs(options: argparse.Namespace) -> TemplateInputs:
    """The chat template's inputs that were asked for."""
    from runtime.text.template_data import make_inputs

    arguments: dict[str, Any] = {}
    for text in options.template_argument:
        name, mark, value = text.partition("=")
        if not mark or not name.strip():
            raise PocketspecError(f"--template-argument {text}: write NAME=VALUE, as in enable_thinking=false")
        if name in arguments:
            raise PocketspecError(f"--template-argument {name} is given twice; drop one")
        arguments[name] = _parse_value(text, value)
    if arguments and options.raw:
        raise PocketspecError("--raw uses no chat template, so --template-argument means nothing; drop one of them")
    return make_inputs(arguments)


def _parse_value(argument: str, value: str) -> Any:
    if value in ("True", "False", "None"):  # JSON reads these as text, which is true in every template
        written = {"True": "true", "False": "false", "None": "null"}[value]
        raise PocketspecError(
            f"--template-argument {argument}: values are JSON; write {written}, or '\"{value}\"' as text"
        )
    try:
        return json.loads(value)
    except ValueError:
        return value


def make_sampling(options: argparse.Namespace, seed: int | None = None) -> SamplingParams:
    """The sampling asked for. If it needs a seed and none is given: ``seed``; if that is None, a random one.

    PocketspecError for options that contradict one another.
    """
    from runtime.decoding.sampling import SamplingParams

    given = {name: getattr(options, name) for name in _SAMPLING if getattr(options, name) is not None}
    if options.sampling == "greedy" and given.get("temperature"):
        raise PocketspecError(f"--sampling greedy and --temperature {given['temperature']:g} contradict each other")
    sampling = replace(_suggested(options.bundle) if options.sampling == "model" else SamplingParams(), **given)
    if sampling.temperature == 0:
        for name in _NO_EFFECT_WHEN_GREEDY:
            if name in given:
                say(f"--{name.replace('_', '-')} changes nothing at temperature 0; pass --temperature")
    elif "seed" not in given:
        sampling = replace(sampling, seed=secrets.randbits(31) if seed is None else seed)
    return sampling


def _suggested(bundle: Path) -> SamplingParams:
    """The sampling that the checkpoint's makers suggest; prints a line if a part of it is not supported."""
    from runtime.decoding.sampling import SamplingParams
    from runtime.decoding.suggested_sampling import read_suggestion

    suggestion = read_suggestion(bundle)
    if suggestion is None:
        say("this model's makers suggest no sampling, so --sampling model is greedy")
        return SamplingParams()
    for name in suggestion.left_out:
        say(f"generation_config.json also sets {name}, which is not done here")
    return suggestion.sampling


def show_suggestion(options: argparse.Namespace) -> None:
    """Prints a line if the checkpoint's makers suggest sampling and none was asked for."""
    from runtime.decoding.suggested_sampling import read_suggestion

    if any(getattr(options, name) is not None for name in ("sampling", *_SAMPLING)):
        return
    with suppress(PocketspecError):  # errors are reported where the suggestion is used
        suggestion = read_suggestion(options.bundle)
        if suggestion is not None and suggestion.describe():
            say(
                f"this model's makers suggest {suggestion.describe()}; answers are greedy: pass --sampling model, or"
                " --sampling greedy to leave out this note"
            )


def make_speculation(options: argparse.Namespace) -> Speculation:
    """The speculation asked for; PocketspecError for options that contradict one another."""
    from runtime.speculation.request import AUTO, NONE, Speculation

    if options.no_speculation and options.drafter not in (None, NONE):
        raise PocketspecError(f"--no-speculation and --drafter {options.drafter} contradict each other; drop one")
    drafter = NONE if options.no_speculation else options.drafter or AUTO
    for name in ("draft_size", "shape"):
        if drafter == NONE and getattr(options, name) is not None:
            raise PocketspecError(f"--{name.replace('_', '-')} means nothing without speculation; drop it")
    return Speculation(drafter, options.draft_size, options.shape, options.acceptance)


def open_engine(
    options: argparse.Namespace,
    kernels: Wanted | None = None,
    notify: Callable[[str], None] = say,
    **request: Any,
) -> Engine:
    """The engine for ``options.bundle``; ``request`` are further fields of a Request.

    ``kernels`` None: those of ``options``. ``notify`` gets lines that users should read.
    """
    from memory.device import read_device
    from runtime.engine import Engine

    return Engine.open(
        options.bundle,
        make_request(options, read_device(), **request),
        verify=options.verify,
        warm=options.warm,
        kernels=kernels or options.kernels,
        notify=notify,
        progress=show_progress,
        suffix_store=getattr(options, "suffix_store", None),
    )


def open_for(
    options: argparse.Namespace, speculation: Speculation, notify: Callable[[str], None] = say, **request: Any
) -> Engine:
    """The engine for ``options.bundle`` with the levels that ``speculation`` needs; the rest is ``open_engine``'s."""
    from runtime.bundle.foreign import read_bundle
    from runtime.speculation.request import AUTO, NONE, check_drafter, levels_below, needed_levels

    manifest = read_bundle(options.bundle)
    levels = levels_below(manifest)
    if speculation.drafter not in (AUTO, NONE):
        check_drafter(speculation.drafter, levels, f"in {options.bundle}", files=manifest.files)
    if speculation.draft_size is not None and speculation.draft_size < 1:
        raise PocketspecError(
            f"--draft-size {speculation.draft_size}: it must be at least 1 (plain decoding is --no-speculation)"
        )
    return open_engine(
        options,
        notify=notify,
        drafters=needed_levels(speculation.drafter, levels),
        shape=speculation.shape,
        nodes=0 if speculation.drafter == NONE else speculation.draft_size,
        **request,
    )


def check_report(path: Path | None, endings: Sequence[str] = (".md", ".json")) -> None:
    """PocketspecError unless a report can be written to ``path`` in the format of its ending; None: none is wanted."""
    if path is None:
        return
    if path.suffix not in endings:
        raise PocketspecError(f"--output {path}: the name must end in {', '.join(endings[:-1])} or {endings[-1]}")
    if not path.parent.is_dir():
        raise PocketspecError(f"--output {path}: there is no folder {path.parent}; make it first")


def write_report(path: Path, content: str) -> None:
    """Writes ``content`` and a line break to ``path``, completely or not at all; PocketspecError if that fails."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(content + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PocketspecError(f"cannot write {path}: {error.strerror}") from None
