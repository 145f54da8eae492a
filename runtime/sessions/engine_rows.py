"""The rows and tokens that an engine holds: copied, put back, saved, restored, and exchanged for kept ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.manifest import Manifest
from runtime.decoding.context import Context
from runtime.open_models import PlannedModels
from runtime.sessions.held import HeldLevel, held_levels
from runtime.sessions.kept import KeptConversations
from runtime.sessions.restoring import Session, restore_session
from runtime.sessions.saving import EngineState, save_session
from runtime.sessions.snapshot import Snapshot, put_back, take_snapshot


class EngineRows:
    """What the caches of ``models`` and ``context`` hold of the text. Callers see to it that no answer runs."""

    def __init__(
        self, models: PlannedModels, context: Context, kept: KeptConversations, bundle: Path, manifest: Manifest
    ) -> None:
        self._models, self._context, self._kept = models, context, kept
        self._bundle, self._manifest = bundle, manifest

    def snapshot(self) -> Snapshot:
        """See ``Engine.snapshot``."""
        return take_snapshot(self._levels(), self._context)

    def resume(self, snapshot: Snapshot) -> None:
        """See ``Engine.resume``."""
        put_back(snapshot, self._levels(), self._context)

    def save(self, path: Path, conversation: Mapping[str, Any] | None, tokens: Sequence[int] | None) -> None:
        """See ``Engine.save``."""
        state = self._state()
        save_session(path, state if tokens is None else state.limited_to(tokens), conversation)

    def restore(self, path: Path, reread: bool) -> Session:
        """See ``Engine.restore``."""
        return restore_session(path, self._state(), reread)

    def turn_to(self, tokens: Sequence[int]) -> None:
        """Brings back the kept conversation that the prompt ``tokens`` continues, if one is kept."""
        if self._kept.limit:
            with self._models.still():
                self._kept.turn_to(tokens, self._levels()[0], self._context)

    def _levels(self) -> list[HeldLevel]:
        """The open levels, the target first."""
        return held_levels(self._models, self._bundle, self._manifest)

    def _state(self) -> EngineState:
        """What a session file keeps."""
        levels, target = self._levels(), self._models.target
        vocabulary = self._manifest.target.vocabulary.sha256 or levels[0].identity.model  # other builders hash nothing
        calibrations = self._models.speculator.calibrations
        return EngineState(levels, self._context, calibrations, vocabulary, target.vocab_size)
