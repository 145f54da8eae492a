"""The folder in which a drafter is made: what is done, what a run has spent, and what it was asked for.

Each stage leaves whole files, and is done once its last one is there. So the same command continues wherever it was
interrupted. The result stands beside the work: the drafter's checkpoint, the bundle, and what was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.distill.checkpoints import room_on_disk
from export.manifest import PocketspecError
from export.own_files import write_whole
from export.untrusted import MOST_JSON, UntrustedError, parse_json, read_bytes

_REQUEST, _SPENT = "request.json", "spent.json"


class WorkFolder:
    """The folder ``output``; ``name`` is the drafter's. PocketspecError if it is of other work than ``asked``."""

    def __init__(self, output: Path, name: str, asked: Mapping[str, Any]) -> None:
        work = output / "work"
        self.target_bundle, self.answers, self.lessons = work / "target", work / "answers", work / "lessons"
        self.checkpoint, self.bundle, self.measured = output / name, output / "bundle", output / "measured.md"
        self.prompts = work / "held-out.jsonl"
        self._work = work
        self._claim(output, dict(asked))
        self._spent = {key: float(value) for key, value in _read(work / _SPENT).items()}

    def learning(self, kind: str) -> Path:
        """The folder in which a student of ``kind`` learns."""
        return self._work / f"learning-{kind}"

    def part(self, folder: Path, number: int) -> Path:
        """A numbered file of ``folder``."""
        return folder / f"{number:05}.npz"

    def parts(self, folder: Path) -> list[Path]:
        """The files of ``folder`` in their order."""
        return sorted(folder.glob("*.npz"))

    def spent(self, *stages: str) -> float:
        """Seconds that all runs together have spent on these stages; without any, on all."""
        return sum(self._spent.get(stage, 0.0) for stage in stages or self._spent)

    @contextmanager
    def spending(self, stage: str) -> Iterator[None]:
        """A context whose seconds count as spent on ``stage``."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.spend(stage, time.monotonic() - begun)

    def spend(self, stage: str, seconds: float) -> None:
        """Adds to what is spent on ``stage``."""
        self._spent[stage] = self._spent.get(stage, 0.0) + seconds
        self.write_json(self._work / _SPENT, self._spent)

    def remembered(self, what: str) -> float | None:
        """The number that ``remember`` kept, of an earlier run as well."""
        value = _read(self._work / f"{what}.json").get("value")
        return None if value is None else float(value)

    def remember(self, what: str, value: float) -> None:
        """Keeps a number."""
        self.write_json(self._work / f"{what}.json", {"value": value})

    def write_json(self, path: Path, value: Any) -> None:
        """Writes ``value`` whole or not at all."""
        with room_on_disk(path):
            write_whole(path, json.dumps(value, indent=2).encode())

    def _claim(self, output: Path, asked: dict[str, Any]) -> None:
        path = self._work / _REQUEST
        if path.is_file():
            if _read(path) != asked:
                raise PocketspecError(f"{output} holds work on another request; give another --output, or delete it")
            return
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise PocketspecError(f"{output} is in the way, and is no work of this command; give another --output")
        self.write_json(path, asked)


def _read(path: Path) -> dict[str, Any]:
    """The object in a file of the folder; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        data = parse_json(read_bytes(path, MOST_JSON))
    except UntrustedError as error:
        raise PocketspecError(f"{path} {error}; delete the folder and begin again") from None
    return data if isinstance(data, dict) else {}
