"""Reads prompts from a file, with the category of each if the file names one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from export.manifest import PocketspecError

SEPARATOR = "<|endoftext|>"
# Fields that name a category: in the files of Spec-Bench, and in those that distillation writes.
_CATEGORY_FIELDS = ("category", "kind")
_NAMED_LINES = 20


@dataclass(frozen=True)
class BenchPrompt:
    """One prompt; ``category`` None: the file names none."""

    text: str
    category: str | None = None


def read_prompts(path: Path, count: int | None = None, per_category: int | None = None) -> list[BenchPrompt]:
    """Reads prompts from JSON lines, texts between ``<|endoftext|>``, or plain lines.

    A JSON line has ``prompt`` or ``turns`` (of which the first is used), and may have ``category`` or ``kind``. The
    result has the first ``per_category`` prompts of every category, and of those the first ``count``. PocketspecError
    if the file cannot be read, has broken lines, or has no prompts.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PocketspecError(f"cannot read prompts from {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PocketspecError(f"cannot read prompts from {path}: it is not UTF-8 text at byte {error.start}") from None
    if path.suffix == ".jsonl":
        prompts = _json_prompts(text, path)
    else:
        parts = text.split(SEPARATOR) if SEPARATOR in text else text.splitlines()
        prompts = [BenchPrompt(part.strip()) for part in parts if part.strip()]
    if not prompts:
        raise PocketspecError(f"{path} has no prompts")
    return _first_of_each(prompts, per_category)[:count]


def random_prompts(count: int, num_tokens: int, vocab_size: int) -> list[BenchPrompt]:
    """``count`` prompts of random token ids, always the same ones: for bundles without a tokenizer."""
    draw = Random(0)
    return [BenchPrompt(" ".join(str(draw.randrange(vocab_size)) for _ in range(num_tokens))) for _ in range(count)]


def first_tokens(prompts: Sequence[list[int]], wanted: int | None) -> list[list[int]]:
    """The first ``wanted`` tokens of each prompt, None: all; PocketspecError if no prompt has so many."""
    longest = max(map(len, prompts))
    if wanted is not None and wanted > longest:
        raise PocketspecError(
            f"--prompt-tokens {wanted}: of {len(prompts)} prompts the longest has {longest} tokens; ask for at most"
            f" {longest}, or name longer texts with --prompts"
        )
    return [prompt[:wanted] for prompt in prompts]


def describe_lengths(prompts: Sequence[Sequence[int]], wanted: int | None) -> str:
    """Lengths in words: ``of 139 tokens`` or ``of 97 to 256 tokens (3 of 8 have fewer than the 256 wanted)``."""
    lengths = [len(prompt) for prompt in prompts]
    shortest, longest = min(lengths), max(lengths)
    span = f"of {longest} tokens" if shortest == longest else f"of {shortest} to {longest} tokens"
    fewer = sum(length < (wanted or 0) for length in lengths)
    return f"{span} ({fewer} of {len(lengths)} have fewer than the {wanted} wanted)" if fewer else span


def _json_prompts(text: str, path: Path) -> list[BenchPrompt]:
    prompts: list[BenchPrompt] = []
    broken: dict[int, str] = {}
    # Not splitlines: a JSON text may contain other Unicode line breaks.
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(_json_prompt(line))
        except ValueError as error:
            broken[number] = str(error)
    if broken:
        first, reason = next(iter(broken.items()))
        more = f", {len(broken) - _NAMED_LINES} more" if len(broken) > _NAMED_LINES else ""
        numbers = ", ".join(str(number) for number in list(broken)[:_NAMED_LINES])
        raise PocketspecError(
            f"{path}, line {first}: {reason}; {len(broken)} of {len(broken) + len(prompts)} lines are broken"
            f" ({numbers}{more}): mend or remove them, nothing was measured"
        )
    return prompts


def _json_prompt(line: str) -> BenchPrompt:
    """The prompt in ``line``; ValueError says what is wrong with it."""
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(record, dict) or not ("prompt" in record or "turns" in record):
        raise ValueError("not a JSON object with 'prompt' or 'turns'")
    turns = [record["prompt"]] if "prompt" in record else record["turns"]
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str) or not turns[0].strip():
        raise ValueError("its 'prompt', or the first of its 'turns', is no text")
    category = next((record[name] for name in _CATEGORY_FIELDS if record.get(name) is not None), None)
    if category is not None and not (isinstance(category, str) and category.strip()):
        raise ValueError("its 'category' or 'kind' is no text")
    return BenchPrompt(turns[0], None if category is None else category.strip())


def _first_of_each(prompts: Sequence[BenchPrompt], per_category: int | None) -> list[BenchPrompt]:
    seen: Counter[str | None] = Counter()
    kept = []
    for prompt in prompts:
        seen[prompt.category] += 1
        if per_category is None or seen[prompt.category] <= per_category:
            kept.append(prompt)
    return kept
