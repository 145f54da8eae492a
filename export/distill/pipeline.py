"""``distill --target``: from a target to a drafter that is exported beside it and measured, stage after stage.

1. The target is exported, with the drafters it has already.
2. It answers prompts on this runtime: its own, or a user's.
3. Its checkpoint reads the answers, for the distribution behind every token.
4. The student learns these, and is judged on answers held out.
5. It is saved as an ordinary checkpoint, exported beside the target, and measured.

Of several processes the first does all but the learning, in which all take part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer

from export.bundle import export_bundle
from export.distill.answers import AnswerWriter, TargetText, as_corpus, load_texts, save_texts
from export.distill.budget import TimeBudget
from export.distill.devices import training_device
from export.distill.distill_request import DistillRequest, check_request
from export.distill.kinds import KINDS
from export.distill.kinds.kind import StudentKind, Teaching
from export.distill.learning import Learned, learn
from export.distill.lessons import Lessons, join, load_lessons, read_text, save_lessons
from export.distill.processes import as_first, is_first, joined_processes, wait_for_all
from export.distill.prompts import Asker, read_prompts
from export.distill.result import DrafterResult
from export.distill.work_folder import WorkFolder
from export.manifest import PocketspecError, Source
from export.request import ExportRequest, short_name
from export.sources.hub import fetch_checkpoint
from export.sources.opened import ModelOrigin, describe_model
from export.sources.targets import Target, resolve
from export.sources.vocabulary import read_vocabulary
from export.untrusted import first_line

Say = Callable[[str], None]
# A part of the answers, or of what was read, is written after so many seconds: an interruption loses no more.
_PART_SECONDS = 30.0
# The seconds of learning, once it began.
_PLAN = "learning-seconds"
# Fewer tokens teach nothing.
_LEAST_TOKENS = 256


def distill(request: DistillRequest, say: Say) -> None:
    """Makes the drafter that ``request`` asks for, or continues; ``say`` gets a line at every stage."""
    check_request(request)
    with joined_processes():
        target, kind = resolve(request.target), KINDS[request.kind]
        source, teaching = _open_target(request, target, kind)
        kind.check(teaching)
        run = _Run(request, teaching, say)
        if is_first():
            run.prepare()
        wait_for_all()
        learned = run.learn(kind)
        if is_first():
            with run.work.spending("end"):
                DrafterResult(request, kind, source, learned, run.work, say).publish(teaching, *run.data())


def _open_target(request: DistillRequest, target: Target, kind: StudentKind) -> tuple[Source, Teaching]:
    origin = ModelOrigin(target, request.revision, request.cache_dir)
    model = describe_model(origin)
    place = target.folder or target.hub_id
    assert place is not None
    revision = request.revision if target.folder is not None else request.revision or target.revision
    folder = fetch_checkpoint(place, revision, request.cache_dir)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizer classes raise anything for files that they do not expect
        raise PocketspecError(f"transformers cannot open the tokenizer in {folder}: {first_line(error)}") from error
    drafts, device = request.drafts or kind.drafts, training_device()
    return model.provenance, Teaching(folder, model.config, tokenizer, device, drafts, request.start, request.layers)


class _Run:
    """The stages up to learning, in a folder that remembers them."""

    def __init__(self, request: DistillRequest, teaching: Teaching, say: Say) -> None:
        self._request, self._teaching, self._say = request, teaching, say
        if not is_first():
            wait_for_all()  # until the first process has claimed the folder
        name = f"{short_name(resolve(request.target).name)}-{request.kind}"
        self.work = WorkFolder(request.output, name, request.identity())
        if is_first():
            wait_for_all()

    @property
    def _budget(self) -> TimeBudget:
        return TimeBudget(self._request.hours, self.work.spent("export"))

    def prepare(self) -> None:
        """Export, answers and lessons, as far as they are missing."""
        work = self.work
        if work.remembered(_PLAN) is not None:
            return
        with work.spending("export"):
            bundle = self._request.bundle or self._export()
        self._budget.check()
        if work.spent("answers") < self._budget.answer_seconds:
            self._answer(bundle)
        if work.spent("reading") < self._budget.reading_seconds:
            self._read()

    def _export(self) -> Path:
        self._say(f"exporting {self._request.target}, to answer with")
        asked = self._request
        return export_bundle(
            ExportRequest(
                asked.target, self.work.target_bundle, asked.weights, revision=asked.revision, cache_dir=asked.cache_dir
            )
        )

    def _answer(self, bundle: Path) -> None:
        from runtime import Engine

        known = self._texts()
        asker = Asker(self._teaching.tokenizer, read_vocabulary(self._teaching.checkpoint).bos_token_id)
        given = read_prompts(self._request.texts, asker, self._say) if self._request.texts else []
        left = self._budget.answer_seconds - self.work.spent("answers")
        whose = f"{len(given):,} prompts" if given else "prompts of its own"
        self._say(f"{self._request.target} answers {whose} for {left / 60:.1f} min")
        with Engine.open(bundle) as engine:
            writer, part = AnswerWriter(engine, asker, given, known), len(self.work.parts(self.work.answers))
            more = True
            while more and (left := self._budget.answer_seconds - self.work.spent("answers")) > 0:
                with self.work.spending("answers"):
                    if texts := list(writer.write(min(left, _PART_SECONDS))):
                        save_texts(texts, self.work.part(self.work.answers, part))
                part, more = part + 1, bool(texts)
        count = sum(len(text.tokens) for text in self._texts())
        self._say(f"{count:,} tokens of prompts and answers")

    def _read(self) -> None:
        self._say(f"{self._request.target} reads them, for the distribution behind every token")
        for path in self.work.parts(self.work.answers):
            lessons = self.work.lessons / path.name
            if lessons.is_file():
                continue
            if self.work.spent("reading") >= self._budget.reading_seconds:
                break
            with self.work.spending("reading"):
                if texts := [text for text in load_texts(path) if not text.is_held_out]:
                    corpus = as_corpus(texts)
                    save_lessons(read_text(self._teaching.target, corpus, len(corpus.tokens)), lessons)

    def learn(self, kind: StudentKind) -> Learned:
        """The student after its learning; the result of an earlier run if that finished."""
        minutes = as_first(self._learning_seconds() if is_first() else 0.0) / 60
        phases = [kind]
        if kind.starts_as is not None and self._teaching.start is None and not self._teaching.layers:
            phases.insert(0, kind.starts_as)
        held_out = [text.held_out() for text in self._held_out()]
        teaching, learned = self._teaching, None
        for phase in phases:
            folder = self.work.learning(phase.name)
            learned = learn(phase, teaching, self._lessons, held_out, minutes / len(phases), folder, self._say)
            teaching = replace(teaching, start=folder)
        assert learned is not None
        return learned

    def _learning_seconds(self) -> float:
        """Those of the first run that came here: a schedule has one length."""
        plan = self.work.remembered(_PLAN)
        if plan is None:
            plan = self._budget.learning_seconds(self.work.spent("answers", "reading"))
            if plan < 1:
                raise PocketspecError(f"--hours {self._request.hours:g} leaves no time to learn; give more")
            self.work.remember(_PLAN, plan)
        return plan

    def _lessons(self) -> Lessons:
        parts = [load_lessons(path) for path in self.work.parts(self.work.lessons)]
        tokens = sum(len(part.corpus.tokens) for part in parts)
        if tokens < _LEAST_TOKENS:
            raise PocketspecError(
                f"{self._request.target} wrote {tokens} tokens to learn from in its time; give more --hours or --text"
            )
        return join(parts)

    def _texts(self) -> list[TargetText]:
        return [text for path in self.work.parts(self.work.answers) for text in load_texts(path)]

    def _held_out(self) -> Sequence[TargetText]:
        return [text for text in self._texts() if text.is_held_out]

    def data(self) -> tuple[list[TargetText], str]:
        """The texts that were held out, and in words what was learned from."""
        texts = self._texts()
        learned = [text for text in texts if not text.is_held_out]
        tokens = sum(len(text.tokens) for text in learned)
        names = ", ".join(path.name for path in self._request.texts)
        whose = f"prompts of {names}" if names else "prompts that it wrote itself"
        return [
            t for t in texts if t.is_held_out
        ], f"the target's answers to {len(learned):,} {whose}, {tokens:,} tokens"
