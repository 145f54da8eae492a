"""Texts that a target writes for a drafter to learn from: prompt after prompt, in parts that survive interruptions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.distill.checkpoints import save_arrays
from export.distill.corpus import Corpus, IdStream, token_ids
from export.distill.held_out import HeldOutText
from export.distill.prompts import LONGEST_OPENING, LONGEST_PROMPT, AskedPrompt, Asker

if TYPE_CHECKING:
    from runtime import Engine

# Of so many prompts one is answered at a temperature, the others greedily.
_SAMPLED_OF = 7
# Of so many prompts one is held out, of the first ones.
_HELD_OUT_OF, _HELD_OUT_UP_TO = 10, 240
_TEMPERATURE, _PROMPT_TEMPERATURE = 0.8, 1.0
LONGEST_ANSWER, _LONGEST_OWN_PROMPT = 256, 120
# A user's prompts are answered so often, from the second time on at a temperature.
_ROUNDS = 4
# Prompts that a target may write in vain, one after another: empty, or known already.
_PATIENCE = 200


@dataclass(frozen=True)
class TargetText:
    """What the target wrote for prompt ``number``: ``tokens`` are prompt and answer, which begins at ``begin``."""

    number: int
    tokens: IdStream
    begin: int
    prompt: str
    kind: str = ""

    @property
    def is_held_out(self) -> bool:
        """Whether nothing learns from it."""
        return _is_held_out(self.number)

    def held_out(self) -> HeldOutText:
        """It, to judge drafts on."""
        return HeldOutText(self.tokens, self.begin)


def _is_greedy(number: int) -> bool:
    return number % _SAMPLED_OF < _SAMPLED_OF - 1


def _is_held_out(number: int) -> bool:
    return _is_greedy(number) and number < _HELD_OUT_UP_TO and number % _HELD_OUT_OF == 0


def as_corpus(texts: Sequence[TargetText]) -> Corpus:
    """The texts as one stream."""
    starts = np.cumsum([0, *(len(text.tokens) for text in texts[:-1])]).astype(np.int64)
    return Corpus(np.concatenate([text.tokens for text in texts]), starts)


def save_texts(texts: Sequence[TargetText], path: Path) -> None:
    """Writes the texts as ``.npz``, whole or not at all."""
    corpus = as_corpus(texts)
    fields = {name: [getattr(text, name) for text in texts] for name in ("number", "begin", "prompt", "kind")}
    save_arrays(path, tokens=corpus.tokens, starts=corpus.starts, **fields)


def load_texts(path: Path) -> list[TargetText]:
    """Reads what ``save_texts`` wrote."""
    with np.load(path) as data:
        rows = np.split(data["tokens"], data["starts"][1:])
        fields = zip(data["number"], rows, data["begin"], data["prompt"], data["kind"], strict=True)
        return [TargetText(int(n), row, int(begin), str(text), str(kind)) for n, row, begin, text, kind in fields]


class AnswerWriter:
    """Has an exported target write texts. ``given`` are a user's prompts; without any it writes its own.

    ``known`` are the texts of an earlier run.
    """

    def __init__(self, engine: Engine, asker: Asker, given: Sequence[AskedPrompt], known: Sequence[TargetText]) -> None:
        self._engine, self._asker, self._given = engine, asker, given
        self._next = 1 + max((text.number for text in known), default=-1)
        self._seen = {text.prompt for text in known}
        self._room = min(LONGEST_PROMPT, engine.capacity // 2)

    def write(self, seconds: float) -> Iterator[TargetText]:
        """Texts for about ``seconds``; at least one if there are prompts left."""
        begun = time.monotonic()
        for number, prompt in self._prompts():
            longest = min(LONGEST_ANSWER, self._engine.capacity - len(prompt.tokens) - 1)
            greedy = _is_greedy(number) and (not self._given or number < len(self._given))
            answer = self._run(prompt.tokens, 0.0 if greedy else _TEMPERATURE, number, longest)
            self._next = number + 1
            if answer:
                yield TargetText(
                    number, token_ids([*prompt.tokens, *answer]), len(prompt.tokens), prompt.text, prompt.kind
                )
            if time.monotonic() - begun > seconds:
                return

    def _prompts(self) -> Iterator[tuple[int, AskedPrompt]]:
        if self._given:
            count = len(self._given)
            for number in range(self._next, count * _ROUNDS):
                prompt = self._given[number % count]
                known = number >= count and (_is_held_out(number % count) or _is_held_out(number))
                if len(prompt.tokens) <= self._room and not known:
                    yield number, prompt
            return
        number, in_vain = self._next, 0
        while in_vain < _PATIENCE:
            own = self._own_prompt(number)
            if own is None or own.text in self._seen or not 0 < len(own.tokens) <= self._room:
                in_vain += 1
            else:
                in_vain = 0
                self._seen.add(own.text)
                yield number, own
            number += 1

    def _own_prompt(self, number: int) -> AskedPrompt | None:
        """What the target writes where a user would, or the beginning of a text, of 4 tokens or more."""
        longest = _LONGEST_OWN_PROMPT if self._asker.chats else 4 + number % (LONGEST_OPENING - 4)
        vocabulary = self._engine.manifest.target.vocabulary
        before = self._asker.before or [number % vocabulary.entries]
        written = self._run(before, _PROMPT_TEMPERATURE, number, min(longest, self._room))
        ends = {*vocabulary.eos_token_ids, *self._asker.behind[:1]}
        end = next((place for place, token in enumerate(written) if token in ends), None)
        if self._asker.chats and end is None:
            return None  # it did not come to an end: that is no message
        return self._asker.own(written[:end])

    def _run(self, prompt: Sequence[int], temperature: float, seed: int, longest: int) -> list[int]:
        from runtime import SamplingParams

        sampling = SamplingParams(temperature=temperature, seed=seed)
        chunks = self._engine.generate(list(prompt), sampling=sampling, max_new_tokens=longest)
        return [token for chunk in chunks for token in chunk.step.tokens]
