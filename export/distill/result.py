"""The end of ``distill --target``: the drafter as an ordinary checkpoint with its card, exported, and measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.bundle import export_bundle
from export.distill.answers import TargetText
from export.distill.card import DrafterCard
from export.distill.checkpoints import room_on_disk
from export.distill.distill_request import DistillRequest
from export.distill.kinds.kind import StudentKind, Teaching
from export.distill.learning import Learned
from export.distill.work_folder import WorkFolder
from export.manifest import Source, read_manifest
from export.own_files import write_whole
from export.request import ExportRequest
from memory.child import command, environment

_CARD = "README.md"
# What a checkpoint has of its student, and of its target.
_OWN_FILES = ("*.safetensors", "*.json")
_TARGET_FILES = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "chat_template.*", "LICENSE*")
_NOT_OURS = ("quality.json", "training.json")
# What is measured: prompts, and most tokens of an answer.
_PROMPTS, _TOKENS = 8, 96


@dataclass(frozen=True)
class DrafterResult:
    """What ``learned``, of a target from ``source``, becomes in the folder ``work``."""

    request: DistillRequest
    kind: StudentKind
    source: Source
    learned: Learned
    work: WorkFolder
    say: Callable[[str], None]

    def publish(self, teaching: Teaching, held_out: Sequence[TargetText], data: str) -> None:
        """Checkpoint, card, bundle and measurement, as far as they are missing."""
        if not self.work.checkpoint.exists():
            self._save(teaching.checkpoint, data)
        self.say(f"exporting {self.request.target} with {self.work.checkpoint.name}")
        bundle = self._export()
        drafter = read_manifest(bundle).levels[1]
        agreement = "" if drafter.agreement is None else f", {drafter.agreement:.1%} of the target's tokens"
        if not self.work.measured.is_file():
            self._measure(bundle, drafter.name, held_out, teaching)
        self._write_card(self.work.checkpoint, data)
        self.say(f"{self.learned.quality}{agreement}; held out: {self.learned.judged}")
        print(f"drafter: {self.work.checkpoint}\nbundle: {bundle}")

    def _save(self, target: Path, data: str) -> None:
        part = self.work.checkpoint.with_name(f"{self.work.checkpoint.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        with room_on_disk(part):
            part.mkdir()
            for folder, patterns in ((target, _TARGET_FILES), (self.learned.folder, _OWN_FILES)):
                for path in (path for pattern in patterns for path in folder.glob(pattern)):
                    if path.name not in _NOT_OURS:
                        shutil.copyfile(path, part / path.name)
            self._write_card(part, data)
            os.replace(part, self.work.checkpoint)

    def _write_card(self, folder: Path, data: str) -> None:
        speeds = self.work.measured.read_text(encoding="utf-8") if self.work.measured.is_file() else None
        card = DrafterCard(
            self.work.checkpoint.name,
            self.kind.purpose,
            self.source.id,
            self.source.licence,
            data,
            self.learned.parameters,
            self.learned.progress,
            self.learned.quality,
            self.learned.judged,
            self.request.command,
            speeds,
        )
        with room_on_disk(folder / _CARD):
            write_whole(folder / _CARD, card.markdown().encode())

    def _export(self) -> Path:
        asked = self.request
        drafter = (str(self.work.checkpoint),)
        return export_bundle(
            ExportRequest(
                asked.target,
                self.work.bundle,
                asked.weights,
                drafter,
                revision=asked.revision,
                cache_dir=asked.cache_dir,
            )
        )

    def _measure(self, bundle: Path, drafter: str, held_out: Sequence[TargetText], teaching: Teaching) -> None:
        """Side by side with plain decoding and suffix drafts, in a process of its own, without torch."""
        lines = [json.dumps({"prompt": text.prompt, "kind": text.kind or "own"}) for text in held_out[:_PROMPTS]]
        with room_on_disk(self.work.prompts):
            write_whole(self.work.prompts, "\n".join(lines).encode())
        raw = [] if teaching.tokenizer.chat_template else ["--raw"]
        options = ["--compare", f"plain,suffix,{drafter},auto", "--tokens", str(_TOKENS), "--repeat", "1", *raw]
        options += ["--prompts", str(self.work.prompts), "--output", str(self.work.measured)]
        bench = command("runtime", "bench", str(bundle), *options)
        done = subprocess.run(bench, stdout=subprocess.PIPE, env=environment(), check=False)
        if done.returncode:
            self.say("it could not be measured; the command above says why, and repeating this one tries again")
            return
        print(done.stdout.decode(), end="")
