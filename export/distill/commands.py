"""``python -m export train``, ``lessons``, ``distill`` and ``measure``: a target from text, its drafters from it."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from export.distill.corpus import Corpus, Record, encode, in_turn, read_records
from export.distill.devices import device_of
from export.distill.eagle import EagleObjective, EagleStudent, quantized
from export.distill.family import FAMILY, POSITIONS, VOCABULARY, from_layers
from export.distill.lessons import TOP, Lessons, join, load_lessons, read_text, run_answers, save_lessons, write_answers
from export.distill.measure import Answered, answer, markdown, measure
from export.distill.one_command import is_one_command, read_request
from export.distill.one_command import run as run_whole
from export.distill.parallel import ParallelObjective, mask_token
from export.distill.pard2 import Pard2Objective, Pard2Student
from export.distill.precision import markdown as precision_lines
from export.distill.precision import measure_precision
from export.distill.stack import StackObjective, StackStudent
from export.distill.tokenizer import save_tokenizer, train_tokenizer
from export.distill.train import NextTokenObjective, Schedule, TeacherObjective, TrainingProgress, train
from export.manifest import PocketspecError
from export.sources.parallel_drafts import LEAST_DRAFTS, LONGEST_KEY, MASK_KEY, MOST_DRAFTS
from memory.machine import measured_on, this_command
from memory.progress_bars import ProgressBars

CONSOLE = Console(stderr=True)
# The packages that measured perplexity and agreement depend on.
_PACKAGES = ("pocketspec", "torch", "transformers")
COMMANDS = ("train", "lessons", "distill", "measure", "precision")
# What learns to draft so many tokens, and from what, by its kind.
_HEADS: dict[str, Callable[[Any, Lessons, int], tuple[Any, EagleObjective | StackObjective]]] = {
    "eagle": lambda target, lessons, steps: (EagleStudent(target), EagleObjective(lessons, quantized(target), steps)),
    "medusa": lambda target, lessons, steps: _stack(target, lessons, steps, False),
    "hydra": lambda target, lessons, steps: _stack(target, lessons, steps, True),
}


def _stack(target: Any, lessons: Lessons, heads: int, grounded: bool) -> tuple[StackStudent, StackObjective]:
    return StackStudent(target, heads, grounded), StackObjective(lessons, quantized(target), heads)


def main(argv: list[str]) -> int:
    """Runs one of the training commands; returns the exit code."""
    if _is_whole(argv):
        run_whole(argv[1:], partial(print, file=sys.stderr, flush=True))
        return 0
    arguments = _parser().parse_args(argv)
    for name, what in (("text", "JSON lines with prompt, response and kind"), ("lessons", "python -m export lessons")):
        given = getattr(arguments, name, None) or []
        for path in [given] if isinstance(given, Path) else given:
            if not path.is_file():
                raise PocketspecError(f"no {name} at {path}; give a file made of, or by: {what}")
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        CONSOLE.print("stopped; the same command continues from the last checkpoint")
        return 130
    return 0


def parse(words: list[str]) -> Any:
    """The options in a command line; those of ``distill --target`` are the request that they make."""
    return read_request(words[1:]) if _is_whole(words) else _parser().parse_args(words)


def _is_whole(words: list[str]) -> bool:
    return words[0] == "distill" and is_one_command(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train_it, lessons, distill, measuring, rounding = (commands.add_parser(name) for name in COMMANDS)
    for command, run in (
        (train_it, _train),
        (lessons, _lessons),
        (distill, _distill),
        (measuring, _measure),
        (rounding, _precision),
    ):
        command.set_defaults(run=run)
        command.add_argument("--output", type=Path, required=command not in (measuring, rounding))
        if command is not distill:
            command.add_argument("--text", type=Path, required=True, help="JSON lines (or .xz): prompt, response, kind")
            command.add_argument("--kinds", nargs="*", default=[], help="only records of these kinds")
        if command is not train_it:
            command.add_argument("--teacher", type=Path, required=True, help="folder of the target's checkpoint")
        if command in (train_it, distill):
            command.add_argument("--size", choices=FAMILY, default="target" if command is train_it else "drafter")
            command.add_argument("--minutes", type=float, default=60)
    train_it.add_argument("--tokenizer", type=Path, help="folder of a tokenizer; made from the text otherwise")
    train_it.add_argument("--tokens-per-step", type=int, default=4096, help="tokens that one update learns from (4096)")
    for command in (train_it, distill):
        command.add_argument("--start", type=Path, help="begin as the checkpoint in this folder, tokenizer included")
    lessons.add_argument("--read-tokens", type=int, default=1_000_000, help="real text the teacher reads")
    lessons.add_argument("--answer-tokens", type=int, default=500_000, help="its answers, prompts of all kinds in turn")
    lessons.add_argument("--greedy-share", type=float, default=0.5, help="share of the answers that are greedy (0.5)")
    lessons.add_argument("--longest-prompt", type=int, default=1000, help="tokens of a prompt that is answered (1000)")
    lessons.add_argument("--bundle", type=Path, help="the exported teacher, to write its answers several times faster")
    lessons.add_argument("--longest-answer", type=int, default=600, help="most tokens of an answer (600)")
    distill.add_argument("--lessons", type=Path, nargs="+", required=True, help="files that the lessons command wrote")
    distill.add_argument(
        "--from-layers",
        type=int,
        nargs="+",
        metavar="N",
        help="begin as these layers of the teacher, not as --size",
    )
    distill.add_argument(
        "--parallel", type=int, metavar="K", help="learn to draft K tokens with one forward (PARD), best from a --start"
    )
    distill.add_argument(
        "--read-target", action="store_true", help="with --parallel: read hidden rows of the target as well (PARD-2)"
    )
    distill.add_argument(
        "--kind",
        choices=("model", *_HEADS),
        default="model",
        help="a model, or heads that read the target's hidden rows: EAGLE-3's, Medusa's or Hydra's",
    )
    distill.add_argument("--steps", type=int, default=5, metavar="K", help="tokens that a head learns to draft (5)")
    measuring.add_argument("--students", type=Path, nargs="*", default=[], help="folders of its drafters")
    measuring.add_argument("--count", type=int, default=10, help="prompts to answer, kinds in turn (10)")
    measuring.add_argument("--tokens", type=int, default=200, help="most tokens of an answer (200)")
    rounding.add_argument("--block-size", type=int, default=32, help="weights that share a scale (32)")
    rounding.add_argument("--count", type=int, default=10, help="conversations to read, each from its beginning (10)")
    measuring.add_argument("--samples", type=int, default=10, help="answers to show (10)")
    return parser


def _train(arguments: argparse.Namespace) -> None:
    records = list(read_records(arguments.text, arguments.kinds))
    tokenizer = _tokenizer(arguments, records)
    save_tokenizer(tokenizer, arguments.output)
    CONSOLE.print(f"{len(records)} conversations")
    model = _new_model(arguments)
    task = NextTokenObjective(encode(records, tokenizer))
    schedule = Schedule(arguments.minutes, arguments.tokens_per_step)
    train(model, task, schedule, arguments.output, report=_report)


def _new_model(arguments: argparse.Namespace) -> Any:
    """The model that training begins with: a checkpoint, layers of the teacher, or random weights of a known size."""
    torch.manual_seed(Schedule.seed)
    if arguments.start is not None:
        return _open_model(arguments.start)
    if getattr(arguments, "from_layers", None):
        return from_layers(_open_model(arguments.teacher), arguments.from_layers)
    return AutoModelForCausalLM.from_config(FAMILY[arguments.size])


def _tokenizer(arguments: argparse.Namespace, records: list[Record]) -> Any:
    if given := arguments.tokenizer or arguments.start:
        return AutoTokenizer.from_pretrained(given)
    if (arguments.output / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(arguments.output)
    texts = itertools.chain.from_iterable((record.prompt, record.response) for record in records)
    return train_tokenizer(texts, VOCABULARY, POSITIONS)


def _lessons(arguments: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    teacher = _open_model(arguments.teacher)
    records = list(read_records(arguments.text, arguments.kinds))
    prompts = [_prompt(tokenizer, record) for record in in_turn(records)]
    prompts = [prompt for prompt in prompts if len(prompt) <= arguments.longest_prompt]
    longest, parts = arguments.longest_answer, []
    greedy = round(arguments.answer_tokens * arguments.greedy_share)
    for texts, tokens, temperature, what in (
        (prompts, greedy, 0.0, "greedy answers"),
        (prompts[::-1], arguments.answer_tokens - greedy, 0.8, "sampled answers"),
    ):
        if not tokens:
            continue
        if arguments.bundle is None:
            with _bar(what, tokens) as report:
                parts += [write_answers(teacher, texts, tokens, temperature, longest, report=report)]
            continue
        with _bar(what, tokens) as report:
            answers = _run_answers(arguments.bundle, texts, tokens, temperature, longest, report)
        with _bar(f"{what} read", len(answers.tokens)) as report:
            parts += [read_text(teacher, answers, len(answers.tokens), report=report)]
    if arguments.read_tokens:
        corpus = encode(records, tokenizer)
        with _bar("text read", arguments.read_tokens) as report:
            parts += [read_text(teacher, corpus, arguments.read_tokens, report=report)]
    if not parts:
        raise PocketspecError("no lessons asked for; give --read-tokens or --answer-tokens more than 0")
    save_lessons(join(parts), arguments.output)


def _run_answers(bundle: Path, *settings: Any) -> Corpus:
    from runtime import Engine

    with Engine.open(bundle) as engine:
        return run_answers(engine, *settings)


def _prompt(tokenizer: Any, record: Record) -> list[int]:
    messages = [{"role": "user", "content": record.prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _distill(arguments: argparse.Namespace) -> None:
    lessons = join([load_lessons(path) for path in arguments.lessons])
    CONSOLE.print(f"{len(lessons.corpus.tokens):,} tokens, {TOP} probabilities each")
    if arguments.read_target and arguments.parallel is None:
        raise PocketspecError("--read-target is for drafts in parallel; give --parallel K as well")
    if arguments.kind in _HEADS:
        _distill_heads(lessons, arguments)
        return
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    save_tokenizer(tokenizer, arguments.output)
    model = _new_model(arguments)
    if arguments.parallel is None:
        train(model, TeacherObjective(lessons), Schedule(arguments.minutes), arguments.output, report=_report)
    else:
        _distill_parallel(model, lessons, tokenizer, arguments)


def _distill_parallel(model: Any, lessons: Lessons, tokenizer: Any, arguments: argparse.Namespace) -> None:
    """Adapts ``model`` to drafting in parallel, perhaps from hidden rows of the target; its configuration says so."""
    if not LEAST_DRAFTS <= arguments.parallel <= MOST_DRAFTS:
        raise PocketspecError(f"--parallel {arguments.parallel}; write {LEAST_DRAFTS} to {MOST_DRAFTS}")
    task: ParallelObjective | Pard2Objective
    mask, depth = mask_token(tokenizer, model.config.vocab_size), arguments.parallel
    if arguments.read_target:
        target = quantized(_open_model(arguments.teacher)).to(device_of(model))
        model, task = Pard2Student(model, target, mask, depth), Pard2Objective(lessons, target, mask, depth)
    else:
        task = ParallelObjective(lessons, mask, depth)
        model.config.update({MASK_KEY: mask, LONGEST_KEY: depth})

    def report(progress: TrainingProgress) -> None:
        _report(progress)
        print(
            "  agreement by position: " + " ".join(f"{share:.3f}" for share in task.agreement.shares), file=sys.stderr
        )

    train(model, task, Schedule(arguments.minutes), arguments.output, report=report)


def _distill_heads(lessons: Lessons, arguments: argparse.Namespace) -> None:
    """Trains a head, or a stack of them, for the teacher as an int4 export rounds it."""
    others = {"--start": arguments.start, "--from-layers": arguments.from_layers, "--parallel": arguments.parallel}
    if given := next((name for name, value in others.items() if value is not None), None):
        raise PocketspecError(f"{given} is for --kind model; heads begin as parts of the teacher")
    if not LEAST_DRAFTS <= arguments.steps <= MOST_DRAFTS:
        raise PocketspecError(f"--steps {arguments.steps}; write {LEAST_DRAFTS} to {MOST_DRAFTS}")
    teacher = _open_model(arguments.teacher)
    torch.manual_seed(Schedule.seed)
    student, task = _HEADS[arguments.kind](teacher, lessons, arguments.steps)
    schedule = Schedule(arguments.minutes, tokens_per_step=2048, length=256, long_length=512)

    def report(progress: TrainingProgress) -> None:
        _report(progress)
        shares = " ".join(f"{share:.3f}" for share in task.agreement.shares)
        print(f"  agreement by position: {shares}; {task.agreement.expected_tokens:.2f} tokens a step", file=sys.stderr)

    train(student, task, schedule, arguments.output, report=report)


def _measure(arguments: argparse.Namespace) -> None:
    """Measures the models on records of a text; prints the page, or writes it to ``--output``."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    records = list(read_records(arguments.text, arguments.kinds))
    models = {folder.name: _open_model(folder) for folder in (arguments.teacher, *arguments.students)}
    target = arguments.teacher.name
    answers = []
    for record in in_turn(records)[: arguments.count]:
        prompt = _prompt(tokenizer, record)
        reply = answer(models[target], prompt, arguments.tokens)
        answers.append(Answered(record, prompt, reply, tokenizer.decode(reply, skip_special_tokens=True)))
    found = measure(models, target, answers, encode(records, tokenizer))
    _show_page(markdown(found, arguments.samples), arguments.output)


def _precision(arguments: argparse.Namespace) -> None:
    """Measures what rounding each kind of matrix costs on a text; prints the page, or writes it to ``--output``."""
    corpus = encode(read_records(arguments.text, arguments.kinds), AutoTokenizer.from_pretrained(arguments.teacher))
    found = measure_precision(_open_model(arguments.teacher), corpus, arguments.block_size, arguments.count)
    _show_page(precision_lines(found), arguments.output)


def _show_page(lines: Iterator[str], output: Path | None) -> None:
    """Prints a page with the command and the machine in front of ``lines``, or writes it to ``output``."""
    header = (f"`{this_command('export')}`", "", f"{measured_on(_PACKAGES)}.", "")
    page = "\n".join([*header, *lines]) + "\n"
    if output is None:
        print(page, end="")
    else:
        output.write_text(page, encoding="utf-8")


def _open_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def _report(progress: TrainingProgress) -> None:
    speed = progress.tokens / progress.seconds
    print(
        f"step {progress.steps}, {progress.tokens / 1e6:.2f} M tokens, loss {progress.loss:.3f},"
        f" {progress.seconds / 60:.1f} min, {speed:,.0f} tokens/s",
        file=sys.stderr,
    )


@contextmanager
def _bar(what: str, tokens: int) -> Iterator[Callable[[int], None]]:
    """A bar for ``tokens`` tokens; yields a function that takes how many are done."""
    with ProgressBars("items", CONSOLE) as bars:
        bars.begin(f"{what}, tokens", tokens)
        yield bars.reach
