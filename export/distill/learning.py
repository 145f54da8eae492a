"""A student of a kind learns, and is judged on texts held out on the way; the best it was is what stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from export.distill.checkpoints import CHECKPOINT, room_on_disk
from export.distill.held_out import DraftQuality, HeldOutText, draft_quality
from export.distill.kinds.kind import StudentKind, Teaching, fitted
from export.distill.lessons import Lessons
from export.distill.processes import wait_for_all
from export.distill.train import PROGRESS, TrainingProgress, train
from export.manifest import PocketspecError
from export.own_files import write_whole

_QUALITY = "quality.json"
# What is judged of each of so many texts.
_TEXTS, _ANSWER_TOKENS = 24, 160


@dataclass(frozen=True)
class Learned:
    """A student that has learned, in ``folder``; ``judged`` says on what."""

    folder: Path
    parameters: int
    progress: TrainingProgress
    quality: DraftQuality
    judged: str


def learn(
    kind: StudentKind,
    teaching: Teaching,
    lessons: Callable[[], Lessons],
    texts: Sequence[HeldOutText],
    minutes: float,
    folder: Path,
    say: Callable[[str], None],
) -> Learned:
    """A student of ``kind`` learns in ``folder`` for ``minutes``, all runs together; all processes take part."""
    if (folder / PROGRESS).is_file() and not (folder / CHECKPOINT).exists():
        return _learned(folder)
    say(f"learning, {kind.name}: {kind.purpose}, for {minutes:.1f} min")
    taught, student = lessons(), kind.student(teaching)
    task = kind.objective(teaching, taught)
    judge = _Judge(kind, student, task, teaching.drafts, texts, folder, say)
    schedule = fitted(kind.schedule(minutes), teaching.longest, len(taught.corpus.tokens))
    train(student, task, schedule, folder, judge=judge)
    wait_for_all()  # until the first process has saved it
    return _learned(folder)


def _learned(folder: Path) -> Learned:
    fields, progress = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (_QUALITY, PROGRESS))
    quality = DraftQuality(tuple(fields["agreement"]), fields["tokens_a_step"])
    return Learned(folder, fields["parameters"], TrainingProgress(**progress["progress"]), quality, fields["judged"])


class _Judge:
    """Called with the progress, it judges the student as it is; the best judgement stands in the folder."""

    def __init__(
        self,
        kind: StudentKind,
        student: Any,
        task: Any,
        drafts: int,
        texts: Sequence[HeldOutText],
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        if not texts:
            raise PocketspecError("the target answered too little to hold something out; give more --hours or --text")
        self._kind, self._student, self._task, self._drafts = kind, student, task, drafts
        self._texts = [replace(text, tokens=text.tokens[: text.begin + _ANSWER_TOKENS]) for text in texts[:_TEXTS]]
        self._folder, self._say = folder, say
        path = folder / _QUALITY
        self._best = json.loads(path.read_text(encoding="utf-8"))["tokens_a_step"] if path.is_file() else 0.0

    def __call__(self, progress: TrainingProgress) -> float:
        """Tokens a step of greedy decoding with the student's drafts."""
        quality = draft_quality(
            [self._kind.hits(self._student, self._task, text, self._drafts) for text in self._texts]
        )
        self._say(
            f"  step {progress.steps:,}, {progress.tokens / 1e6:.2f} M tokens, {progress.seconds / 60:.1f} min,"
            f" loss {progress.loss:.3f}; held out: {quality}"
        )
        if quality.tokens_a_step >= self._best:
            self._best = quality.tokens_a_step
            self._write(quality)
        return quality.tokens_a_step

    def _write(self, quality: DraftQuality) -> None:
        tokens = sum(len(text.tokens) - text.begin for text in self._texts)
        parameters = sum(weight.numel() for weight in self._student.parameters() if weight.requires_grad)
        judged = f"{len(self._texts)} greedy answers held out, {tokens:,} tokens"
        fields = {**asdict(quality), "parameters": parameters, "judged": judged}
        with room_on_disk(self._folder / _QUALITY):
            write_whole(self._folder / _QUALITY, json.dumps(fields).encode())
