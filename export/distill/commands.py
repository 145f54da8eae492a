"""``python -m export train``, ``lessons`` and ``distill``: from text to a target, its lessons, and its drafters."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from export.distill.corpus import Record, encode, read_records
from export.distill.family import FAMILY, POSITIONS, VOCABULARY
from export.distill.lessons import TOP, join, load_lessons, read_text, save_lessons, write_answers
from export.distill.tokenizer import save_tokenizer, train_tokenizer
from export.distill.train import Progress, Schedule, Teaching, Text, train
from export.manifest import PocketspecError

CONSOLE = Console(stderr=True)


def main(argv: list[str]) -> int:
    """Runs one of the training commands; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if not arguments.text.is_file():
        raise PocketspecError(f"no text at {arguments.text}; give a JSON-lines file with prompt, response and kind")
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        CONSOLE.print("stopped; the same command continues from the last checkpoint")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run in (("train", _train), ("lessons", _lessons), ("distill", _distill)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--text", type=Path, required=True, help="JSON lines (or .xz): prompt, response, kind")
        command.add_argument("--kinds", nargs="*", default=[], help="only records of these kinds")
        command.add_argument("--output", type=Path, required=True)
        if name == "train":
            command.add_argument("--tokenizer", type=Path, help="folder of a tokenizer; made from the text otherwise")
        else:
            command.add_argument("--teacher", type=Path, required=True, help="folder of the target's checkpoint")
        if name == "lessons":
            command.add_argument("--read-tokens", type=int, default=1_000_000, help="real text the teacher reads")
            command.add_argument("--answer-tokens", type=int, default=500_000, help="answers it writes, half greedy")
        else:
            command.add_argument("--size", choices=FAMILY, default="target" if name == "train" else "drafter")
            command.add_argument("--minutes", type=float, default=60)
        if name == "distill":
            command.add_argument("--lessons", type=Path, required=True, help="file that the lessons command wrote")
    return parser


def _train(arguments: argparse.Namespace) -> None:
    records = list(read_records(arguments.text, arguments.kinds))
    tokenizer = _tokenizer(arguments, records)
    save_tokenizer(tokenizer, arguments.output)
    CONSOLE.print(f"{len(records)} conversations")
    model = AutoModelForCausalLM.from_config(FAMILY[arguments.size])
    task = Text(encode(records, tokenizer))
    train(model, task, Schedule(arguments.minutes), arguments.output, report=_report)


def _tokenizer(arguments: argparse.Namespace, records: list[Record]) -> Any:
    if arguments.tokenizer is not None:
        return AutoTokenizer.from_pretrained(arguments.tokenizer)
    if (arguments.output / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(arguments.output)
    texts = itertools.chain.from_iterable((record.prompt, record.response) for record in records)
    return train_tokenizer(texts, VOCABULARY, POSITIONS)


def _lessons(arguments: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    teacher = AutoModelForCausalLM.from_pretrained(arguments.teacher, dtype="float32").eval()
    records = list(read_records(arguments.text, arguments.kinds))
    prompts = [_prompt(tokenizer, record) for record in records]
    half = arguments.answer_tokens // 2
    parts = [
        write_answers(teacher, prompts, half, 0.0, report=_count("greedy answers")),
        write_answers(teacher, prompts[::-1], half, 0.8, report=_count("sampled answers")),
        read_text(teacher, encode(records, tokenizer), arguments.read_tokens, report=_count("text read")),
    ]
    save_lessons(join(parts), arguments.output)


def _prompt(tokenizer: Any, record: Record) -> list[int]:
    messages = [{"role": "user", "content": record.prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _distill(arguments: argparse.Namespace) -> None:
    save_tokenizer(AutoTokenizer.from_pretrained(arguments.teacher), arguments.output)
    model = AutoModelForCausalLM.from_config(FAMILY[arguments.size])
    lessons = load_lessons(arguments.lessons)
    CONSOLE.print(f"{len(lessons.corpus.tokens):,} tokens, {TOP} probabilities each")
    train(model, Teaching(lessons), Schedule(arguments.minutes), arguments.output, report=_report)


def _report(progress: Progress) -> None:
    speed = progress.tokens / progress.seconds
    print(
        f"step {progress.steps}, {progress.tokens / 1e6:.2f} M tokens, loss {progress.loss:.3f},"
        f" {progress.seconds / 60:.1f} min, {speed:,.0f} tokens/s",
        file=sys.stderr,
    )


def _count(what: str) -> Any:
    def report(done: int) -> None:
        print(f"\r{what}: {done:,} tokens", end="", file=sys.stderr)

    return report
