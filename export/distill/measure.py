"""Judges trained models: perplexity on text, agreement of drafters with their target, and repetition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.distill.corpus import Corpus, Record
from export.perplexity import perplexity, surprises

# Tokens of a phrase, which is repeated if it stood in the same answer before.
_PHRASE = 8


@dataclass(frozen=True)
class Answered:
    """A record's prompt and the target's greedy answer to it, as tokens; ``text`` is the answer."""

    record: Record
    prompt: Sequence[int]
    answer: Sequence[int]
    text: str


@dataclass(frozen=True)
class ModelQuality:
    """Perplexity and agreement by the name of the model; agreement of students alone, ``by_kind`` of prompt as well."""

    answers: Sequence[Answered]
    perplexities: Mapping[str, float]
    agreements: Mapping[str, float]
    by_kind: Mapping[str, Mapping[str, float]]


@torch.inference_mode()
def text_perplexity(model: Any, corpus: Corpus, longest: int = 1024, conversations: int = 40) -> float:
    """Perplexity per token over the first ``conversations`` of a corpus, each from its beginning."""
    return perplexity(text_surprises(model, corpus, longest, conversations))


@torch.inference_mode()
def text_surprises(model: Any, corpus: Corpus, longest: int = 1024, conversations: int = 40) -> list[float]:
    """The surprises, in nats, of the tokens that ``text_perplexity`` is over."""
    found: list[float] = []
    ends = [*corpus.starts[1:], len(corpus.tokens)]
    for begin, end in list(zip(corpus.starts, ends, strict=True))[:conversations]:
        row = torch.from_numpy(corpus.tokens[begin : min(end, begin + longest)].astype(np.int64))[None]
        logits = model(input_ids=row[:, :-1], use_cache=False).logits[0].float()
        found += surprises(logits.numpy(), row[0, 1:].tolist())
    return found


@torch.inference_mode()
def answer(model: Any, prompt: Sequence[int], longest: int) -> list[int]:
    """The greedy answer of ``model``, without the prompt, up to its end token."""
    row = torch.tensor([list(prompt)])
    out = model.generate(row, max_new_tokens=longest, do_sample=False, attention_mask=torch.ones_like(row))
    return [int(token) for token in out[0, len(prompt) :]]


@torch.inference_mode()
def agreement(drafter: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
    """The share of the tokens of the target's greedy ``answers`` that the drafter would have chosen as well."""
    same = count = 0
    for prompt, reply in zip(prompts, answers, strict=True):
        row = torch.tensor([[*prompt, *reply]])
        chosen: npt.NDArray[np.int64] = drafter(input_ids=row[:, :-1], use_cache=False).logits[0].argmax(-1).numpy()
        same += int((chosen[len(prompt) - 1 :] == np.array(reply)).sum())
        count += len(reply)
    return same / count


def repetition(answers: Sequence[Sequence[int]]) -> float:
    """The share of phrases of eight tokens that stood in the same answer before; 0 if no answer is so long."""
    seen = repeated = 0
    for reply in answers:
        phrases = [tuple(reply[place : place + _PHRASE]) for place in range(len(reply) - _PHRASE + 1)]
        seen += len(phrases)
        repeated += len(phrases) - len(set(phrases))
    return repeated / seen if seen else 0.0


def measure(models: Mapping[str, Any], target: str, answers: Sequence[Answered], corpus: Corpus) -> ModelQuality:
    """The quality of ``models``, by name; all but ``target`` are its students."""
    students = {name: model for name, model in models.items() if name != target}
    kinds = sorted({one.record.kind for one in answers})

    def agreements(some: Sequence[Answered]) -> dict[str, float]:
        texts = [one.prompt for one in some], [one.answer for one in some]
        return {name: agreement(model, *texts) for name, model in students.items()}

    return ModelQuality(
        answers,
        {name: text_perplexity(model, corpus) for name, model in models.items()},
        agreements(answers),
        {kind: agreements([one for one in answers if one.record.kind == kind]) for kind in kinds},
    )


def markdown(found: ModelQuality, samples: int) -> Iterator[str]:
    """The lines of a page: one table for the models, one for kinds of prompts, and the first ``samples`` answers."""
    tokens = sum(len(one.answer) for one in found.answers)
    yield f"{len(found.answers)} greedy answers, {tokens:,} tokens, of which {_repeated(found)} repeat a phrase of"
    yield f"{_PHRASE} tokens from earlier in the same answer. Perplexity is on the text itself."
    yield from ("", "| | perplexity per token | agreement with the target's answers |", "| --- | --- | --- |")
    for name, value in found.perplexities.items():
        yield f"| {name} | {value:.1f} | {_share(found.agreements.get(name))} |"
    if found.agreements:
        yield from ("", f"| kind | {' | '.join(found.agreements)} |", "| --- |" + " --- |" * len(found.agreements))
        for kind, shares in found.by_kind.items():
            yield f"| {kind} | {' | '.join(map(_share, shares.values()))} |"
    for one in found.answers[:samples]:
        yield from ("", f"### {one.record.prompt.strip()}", "", one.text.strip())


def _repeated(found: ModelQuality) -> str:
    return f"{repetition([one.answer for one in found.answers]):.1%}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
