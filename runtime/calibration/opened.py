"""What calibration needs to know of an open bundle; ``engine.Engine`` satisfies it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from export.manifest import Manifest
from memory.plan import Plan
from runtime.models.ort_model import OrtModel
from runtime.text.tokenizer import Tokenizer


class OpenEngine(Protocol):
    """An open bundle: its files, the plan it was opened with, and its models; ``drafters`` are by level name."""

    bundle: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def plan(self) -> Plan: ...

    @property
    def target(self) -> OrtModel: ...

    @property
    def drafters(self) -> Mapping[str, OrtModel]: ...

    def alone(self) -> AbstractContextManager[None]:
        """A context in which nothing else uses the models."""
        ...


def open_models(opened: OpenEngine) -> dict[str, OrtModel]:
    """All open models by level name, the target first."""
    return {opened.manifest.target.name: opened.target, **opened.drafters}
