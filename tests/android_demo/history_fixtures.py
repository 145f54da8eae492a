"""Writes conversations with the tokens that Python keeps of them; the engine's tests keep the same."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from android_demo.check.hard_texts import hard_texts
from android_demo.check.places import BUILD
from runtime.text.token_history import History
from runtime.text.tokenizer import Tokenizer
from tests.runtime.text.test_token_history import FLAGS, KINDS, TEMPLATES, pair

FOLDER = BUILD / "fixtures" / "history"
# The app knows no other model than byte pairs.
_KINDS = [kind for kind in KINDS if kind != "unigram"]
_WORDS = ("one", "two", "Hello", "!", "\n", "\n\n", " ", "  ", ".", "é", "日", "<|end|>")


def _said(tokenizer: Tokenizer, draw: random.Random, texts: Sequence[str]) -> list[int]:
    """An answer: any tokens, or those of a text, which may be cut somewhere."""
    if draw.random() < 0.4:
        return [draw.randrange(3, 150) for _ in range(draw.randint(1, 6))]
    words = "".join(draw.choice(_WORDS) for _ in range(draw.randint(0, 5)))
    ids = tokenizer.encode(draw.choice((words, words, draw.choice(texts))), add_special_tokens=False)
    return ids[: draw.randint(0, len(ids))] if draw.random() < 0.3 else ids


def _is_known(tokenizer: Tokenizer, text: str) -> bool:
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def _turns(tokenizer: Tokenizer, end: int, draw: random.Random, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The texts of a conversation, one of which may go back to an earlier turn, their tokens, and the answers."""
    history = History(tokenizer)
    messages = [{"role": "user", "content": draw.choice(("one", *texts))}]
    for _ in range(draw.randint(2, 4)):
        text = tokenizer.render_chat(messages)
        tokens, said, ended = history.encode(text), _said(tokenizer, draw, texts), draw.random() < 0.5
        shown = tokenizer.decode(said, tokens[-16:] if draw.random() < 0.2 else ())
        answer = [*said, *([end] if ended else [])]
        history.add_answer(answer, shown, ended)
        yield {"text": text, "tokens": tokens, "answer": answer, "shown": shown, "ended": ended}
        if draw.random() < 0.15:
            del messages[-1:]
        else:
            messages.append({"role": "assistant", "content": shown})
        messages.append({"role": "user", "content": draw.choice(("two", "", *texts))})


def write(folder: Path, count: int) -> int:
    """Writes a file for each tokenizer to ``folder``, with ``count`` conversations; returns how many files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hard = [text for text in hard_texts(40) if not any("\ud800" <= each < "\ue000" for each in text)]
    names = list(product(_KINDS, range(len(FLAGS)), (False, True)))
    for number, (kind, flags, normalized) in enumerate(names):
        tokenizer, library = pair(kind, flags, normalized, number % len(TEMPLATES))
        draw, end = random.Random(number), library.token_to_id("<|end|>")
        # The library does not count characters that it drops when it says where tokens lie.
        texts = ["Hello two\n", *(text for text in hard if _is_known(tokenizer, text))]
        lines: list[dict[str, Any]] = [{"tokenizer": library.to_str()}]
        lines += [{"turns": list(_turns(tokenizer, end, draw, texts))} for _ in range(count)]
        written = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{number:02}-{kind.replace(' ', '-')}.jsonl").write_text(written, encoding="utf-8")
    return len(names)
