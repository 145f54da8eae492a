"""What a target is asked when a drafter learns from its answers: prompts of a user's files, or its own.

A target with a chat template writes prompts itself: the template's beginning of a user's message makes it write one
(MagPIE, Xu et al. 2024, arXiv 2406.08464). One without continues texts, of which it writes the beginning as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.distill.corpus import Record, in_turn, read_records
from export.manifest import PocketspecError
from export.untrusted import first_line

# Stands for the user's message while a template is rendered.
_MESSAGE = "@@MESSAGE@@"
# Most tokens of a prompt, and of the beginning of a text.
LONGEST_PROMPT, LONGEST_OPENING = 500, 32
# More tokens than characters: the tokenizer has no tokens for the characters of a text, and breaks them into bytes.
_TOKENS_A_CHARACTER = 1.2
_SUFFIXES = (".jsonl", ".xz")


@dataclass(frozen=True)
class AskedPrompt:
    """What the target reads, and the part of it that is a user's ``text``; ``kind`` is a label."""

    tokens: tuple[int, ...]
    text: str
    kind: str = ""


class Asker:
    """Turns texts into prompts for a target, with its chat template where it has one.

    ``before`` and ``behind`` are the tokens around a user's message; without a template, those in front of any text.
    """

    def __init__(self, tokenizer: Any, begin: int | None) -> None:
        self._tokenizer = tokenizer
        around = _template_around(tokenizer)
        self._around = around
        self.before = [begin] if begin is not None else []
        self.behind = list[int]()
        if around is not None:
            self.before, self.behind = map(self._encode, around)

    @property
    def chats(self) -> bool:
        """Whether the target has a chat template."""
        return self._around is not None

    def ask(self, text: str, kind: str = "") -> AskedPrompt:
        """The prompt of ``text``: a user's message, or the beginning of a text to continue."""
        if self._around is None:
            return AskedPrompt((*self.before, *self._encode(text)[:LONGEST_OPENING]), text, kind)
        return AskedPrompt(tuple(self._encode(text.join(self._around))), text, kind)

    def own(self, written: Sequence[int]) -> AskedPrompt | None:
        """The prompt that the target wrote behind ``before``; None if it is empty."""
        text = self._tokenizer.decode(list(written), skip_special_tokens=True).strip()
        if not text:
            return None
        return self.ask(text) if self.chats else AskedPrompt((*self.before, *written), text)

    def breaks_into_bytes(self, texts: Sequence[str]) -> bool:
        """Whether the tokenizer needs more tokens than these texts have characters."""
        return sum(map(len, map(self._encode, texts))) > _TOKENS_A_CHARACTER * sum(map(len, texts))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _template_around(tokenizer: Any) -> tuple[str, str] | None:
    """What a chat template puts before and behind a user's first message; None if there is no such template."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    messages = [{"role": "user", "content": _MESSAGE}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # templates are programs, and raise what they like
        return None
    before, found, behind = text.partition(_MESSAGE)
    return (before, behind) if found else None


def read_prompts(paths: Sequence[Path], asker: Asker, warn: Callable[[str], None]) -> list[AskedPrompt]:
    """The prompts of files, kinds in turn: JSON lines with a prompt, or texts, of which every paragraph is one.

    Prompts that are too long are left out. PocketspecError for files without any.
    """
    records = in_turn(record for path in paths for record in _records(path))
    names = ", ".join(map(str, paths))
    if not records:
        raise PocketspecError(f"--text {names}: there is no text in it; give JSON lines with prompt, or paragraphs")
    if asker.breaks_into_bytes([record.prompt[:200] for record in records[:500]]):
        warn(f"--text {names}: the target's tokenizer breaks this script into bytes; answers will be short and poor")
    prompts = [asker.ask(record.prompt, record.kind) for record in records]
    kept = [prompt for prompt in prompts if len(prompt.tokens) <= LONGEST_PROMPT]
    if not kept:
        raise PocketspecError(f"--text {names}: every prompt has more than {LONGEST_PROMPT} tokens; give shorter ones")
    return kept


def _records(path: Path) -> list[Record]:
    try:
        if path.suffix in _SUFFIXES:
            return [record for record in read_records(path) if record.prompt.strip()]
        paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    except OSError as error:
        raise PocketspecError(
            f"--text {path}: it cannot be read ({error.strerror}); give a file of UTF-8 text"
        ) from None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise PocketspecError(
            f"--text {path}: it is no UTF-8 text, or no JSON lines with prompt, response and kind ({first_line(error)})"
        ) from None
    return [Record(text.strip(), "", path.name) for text in paragraphs if text.strip()]
