"""What a user asks of ``distill --target``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.distill.kinds import KINDS, REFUSED
from export.manifest import PocketspecError, WeightType

_MOST_HOURS = 24 * 365


@dataclass(frozen=True)
class DistillRequest:
    """A drafter of ``kind`` for ``target``, made in ``output`` within ``hours``.

    ``texts``: files of prompts; without any the target writes its own. ``drafts``: tokens of a draft; None: as usual
    for the kind. ``bundle``: the exported target, if there is one. ``weights`` of the target that it is made for.
    """

    target: str
    kind: str
    output: Path
    hours: float
    texts: tuple[Path, ...] = ()
    start: Path | None = None
    layers: tuple[int, ...] = ()
    drafts: int | None = None
    bundle: Path | None = None
    weights: WeightType = "int4"
    revision: str | None = None
    cache_dir: Path | None = None
    command: str = ""

    def identity(self) -> dict[str, Any]:
        """All that the work depends on: hours may change between runs."""
        given = {"target": self.target, "kind": self.kind, "weights": self.weights, "revision": self.revision}
        paths = {"start": self.start, "bundle": self.bundle}
        return {
            **given,
            **{name: path and str(path) for name, path in paths.items()},
            "texts": list(map(str, self.texts)),
            "layers": list(self.layers),
            "drafts": self.drafts,
        }


def check_request(request: DistillRequest) -> None:
    """PocketspecError for what can be refused before anything is read."""
    if request.kind in REFUSED:
        raise PocketspecError(f"--kind {request.kind}: {REFUSED[request.kind]}")
    if request.kind not in KINDS:
        raise PocketspecError(f"--kind {request.kind} is not known; write one of {', '.join((*KINDS, *REFUSED))}")
    if not 0 < request.hours <= _MOST_HOURS:
        raise PocketspecError(f"--hours {request.hours:g}; write a number of hours above 0, as in 0.5")
    for path in request.texts:
        if not path.is_file():
            raise PocketspecError(f"--text {path}: no such file; give JSON lines with prompt, or a UTF-8 text")
    for option, folder in (("--start", request.start), ("--bundle", request.bundle)):
        if folder is not None and not folder.is_dir():
            raise PocketspecError(f"{option} {folder}: no such folder")
